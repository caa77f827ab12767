"""What those who subscribed are told of payments: credits that came, and that went back."""

from collections.abc import Mapping
from typing import Any

from shared.database import Tx
from shared.notifications.outbox import EventType, emit, has_subscribers


def is_told_of_deposits(tx: Tx) -> bool:
    """Say whether anybody is: a batch asks once, not for each of its deposits."""
    return has_subscribers(tx, EventType.DEPOSIT_CREDITED)


def tell_deposit(
    tx: Tx,
    *,
    account_id: str,
    lot_id: str,
    amount_micro: int,
    source: str,
    payment_id: str | None,
) -> None:
    """Tell that a deposit was credited; *source* is the provider, or ``admin``."""
    emit(
        tx,
        EventType.DEPOSIT_CREDITED,
        key=f"{EventType.DEPOSIT_CREDITED}:{lot_id}",
        data={
            "accountId": account_id,
            "lotId": lot_id,
            "amountMicro": str(amount_micro),
            "source": source,
            "paymentId": payment_id,
        },
    )


def tell_refund(tx: Tx, *, payment_id: str, answer: Mapping[str, Any]) -> None:
    """Tell that a lot was taken back; *answer* is the ledger's."""
    emit(
        tx,
        EventType.REFUNDED,
        key=f"{EventType.REFUNDED}:{answer['lotId']}",
        data={
            "accountId": answer["accountId"],
            "paymentId": payment_id,
            "lotId": answer["lotId"],
            "clawedBackMicro": answer["clawedBackMicro"],
            "debtMicro": answer["debtMicro"],
            "heldMicro": answer["heldMicro"],
        },
    )
