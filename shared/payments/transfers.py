"""Claim a transfer that was made first: its hash, with a message that its sender signed (W32).

The earlier form of x402: every Transfer of the token to us that the signer sent in that
transaction is summed (W34), and credited once it is deep enough in the chain.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from shared import jobs
from shared.clock import add_seconds
from shared.database import Tx, insert_rows, patiently
from shared.errors import Conflict, Invalid, Refused
from shared.ids import new_id
from shared.ledger.queries import require_account
from shared.models.payments import CryptoPayment
from shared.models.x402 import Settlement
from shared.money import parse_coin, usd_text
from shared.payments.crediting import name_of_transfer
from shared.payments.packs import Pack
from shared.payments.quotes import Cashier
from shared.payments.settling import Receipt, credit, leave_to_workers
from shared.payments.x402.chain import Chain, TransactionFacts, transaction_hash
from shared.payments.x402.claims import check_claim
from shared.payments.x402.networks import Network, to_micro

_LEASE_SECONDS = 60


@dataclass(frozen=True)
class TransferClaim:
    """What a member claims: at least *amount_micro* came from *sender* in *transaction*."""

    account_id: str
    transaction: str
    chain_id: int
    sender: str
    signature: str
    amount_micro: int
    pack: Pack | None = None


def claim_transfer(cashier: Cashier, claim: TransferClaim) -> Receipt:
    """Credit the transfer that *claim* names, all of it; pending while it is not deep enough.

    Raises Invalid for a network that is not configured, Forbidden if the sender has not signed for
    this account, Refused if it is not mined, failed, or brought too little, Conflict
    (``payment_replayed``) if it was claimed before, Unavailable if the chain cannot be asked.
    """
    network, chain = _place(cashier, claim.chain_id)
    transaction = transaction_hash(claim.transaction)
    with cashier.desk():
        check_claim(
            chain,
            transaction=transaction,
            account_id=claim.account_id,
            sender=claim.sender,
            signature=claim.signature,
        )
        with cashier.database.reading() as tx:
            require_account(tx, claim.account_id)
            _name(tx, claim, transaction)
        facts = chain.transfers(transaction)
    units = _moved(facts, claim, network)
    held = patiently(partial(_record, cashier, claim, network, transaction, units))
    assert facts is not None
    if facts.confirmations >= network.confirmations:
        return patiently(partial(credit, cashier, held, transaction))
    return patiently(partial(leave_to_workers, cashier, held, transaction))


def _place(cashier: Cashier, chain_id: int) -> tuple[Network, Chain]:
    cashier.require_networks()
    name = f"eip155:{chain_id}"
    if name not in cashier.networks or name not in cashier.chains:
        raise Invalid(
            "Transfers on this chain cannot be claimed.",
            code="unsupported_network",
            details={"chainIds": sorted(cashier.networks[n].chain_id for n in cashier.chains)},
        )
    return cashier.networks[name], cashier.chains[name]


def _name(tx: Tx, claim: TransferClaim, transaction: str) -> str:
    """Return the name of the payment. Raises Conflict (``payment_replayed``) if it was made."""
    name, earlier = name_of_transfer(tx, transaction=transaction, payer=claim.sender.lower())
    if earlier is None:
        return name
    is_own = earlier.account_id == claim.account_id
    raise Conflict(
        "This transaction was credited or claimed already.",
        code="payment_replayed",
        details={"paymentId": earlier.id, "status": earlier.status} if is_own else None,
    )


def _moved(facts: TransactionFacts | None, claim: TransferClaim, network: Network) -> int:
    """Return what the transfer brought in the token's units. Raises Refused."""
    if facts is None:
        raise Refused("The transaction is not mined yet.", code="transaction_not_found")
    if not facts.is_successful:
        raise Refused("The transaction failed.", code="transaction_failed")
    sender = claim.sender.lower()
    units = sum(one.value for one in facts.transfers if one.sender == sender)
    amount_micro = to_micro(units, network.token.decimals)
    if amount_micro == 0:
        raise Refused("The transaction brought us nothing from this sender.", code="no_transfer")
    if amount_micro < claim.amount_micro:
        raise Refused(
            "The transfer is less than what is to be paid.",
            code="amount_too_low",
            details={
                "paidMicro": str(amount_micro),
                "requiredMicro": str(claim.amount_micro),
            },
        )
    return units


def _record(
    cashier: Cashier, claim: TransferClaim, network: Network, transaction: str, units: int
) -> jobs.Claim:
    with cashier.database.transaction() as tx:
        return _insert(tx, claim, network, transaction, units)


def _insert(
    tx: Tx, claim: TransferClaim, network: Network, transaction: str, units: int
) -> jobs.Claim:
    name, amount_micro = _name(tx, claim, transaction), to_micro(units, network.token.decimals)
    payment_id, settlement_id = f"cp_{new_id(tx.now)}", new_id(tx.now)
    token, dollars = settlement_id[-16:], parse_coin(usd_text(amount_micro))
    pack = claim.pack
    row: dict[str, Any] = {
        "id": payment_id,
        "provider": "x402",
        "provider_payment_id": name,
        "account_id": claim.account_id,
        "order_id": payment_id,
        "price_amount": dollars,
        "price_currency": "usd",
        "pay_amount": dollars,
        "pay_currency": "usdc",
        "pay_address": network.pay_to,
        "pack_id": pack.id if pack else None,
        # What was paid above the pack's price is credited as it is.
        "pack_micro": pack.credit_micro + amount_micro - pack.price_micro if pack else None,
        "payer": claim.sender.lower(),
        "status": "confirming",
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, CryptoPayment.__table__, [row])
    job = {
        "id": settlement_id,
        "payment_id": payment_id,
        "network": network.caip2,
        "asset": network.token.asset.lower(),
        "payer": claim.sender.lower(),
        "value": str(units),
        "transaction_hash": transaction,
        "phase": "confirming",
        "lease_token": token,
        "lease_until": add_seconds(tx.now, _LEASE_SECONDS),
        "due_at": tx.now,
        "created_at": tx.now,
    }
    insert_rows(tx, Settlement.__table__, [job])
    return jobs.Claim(token, [settlement_id])
