"""Mints by an admin: once for each key or payment, audited, and above the threshold proposed.

One admin may give one account no more than the threshold within a day, and all accounts together
no more than a hundred times as much. So a large mint in small parts, or to many accounts, needs a
second person as well: the part that exceeds either sum is proposed.
"""

import json
from functools import partial

from sqlalchemy import bindparam, select, text

from shared.clock import add_seconds
from shared.database import Database, Tx, patiently
from shared.errors import Unavailable
from shared.ledger.commands import Outcome
from shared.ledger.terms import Terms, TermsCache
from shared.models.operations import AuditRow, ConfigRow
from shared.models.types import UtcTime
from shared.operations import mint_orders, mint_proposals
from shared.operations.audit import Actor
from shared.operations.mint_orders import MintOrder

FOUR_EYES_DEFAULT_MICRO = 1_000_000_000
ALL_ACCOUNTS_FACTOR = 100  # many accounts are funded on an ordinary day
_DIGITS_MAX = 18
_WINDOW_SECONDS = 86_400


def mint(
    database: Database, terms: TermsCache, actor: Actor, order: MintOrder
) -> tuple[Outcome, bool]:
    """Carry out *order*, and return what became of it and whether it is a proposal.

    What one admin may not mint alone becomes a proposal. Done, proposed or refused, its audit row
    is in the same transaction (W67).
    """
    return patiently(partial(_mint, database, terms.current(), actor, order))


def _mint(database: Database, terms: Terms, actor: Actor, order: MintOrder) -> tuple[Outcome, bool]:
    with database.transaction() as tx:
        prepared = mint_orders.prepare(tx, order)
        # From here on the account is locked: the parts of one sum are counted one after another.
        rehearsed = mint_orders.rehearse(tx, prepared, terms)
        known = mint_proposals.repeat(tx, actor, order)
        if known is not None:
            return known, True
        would_mint = rehearsed.error is None and not rehearsed.is_replay
        if would_mint and _exceeds_what_one_may(tx, actor, order):
            return Outcome(mint_proposals.propose(tx, actor, order)), True
        return mint_orders.carry_out(tx, actor, prepared, terms), False


def _exceeds_what_one_may(tx: Tx, actor: Actor, order: MintOrder) -> bool:
    """Return whether *actor* alone would have minted too much within a day: to one account or all.

    Raises Unavailable (``config_invalid``) if the configured threshold makes no sense.
    """
    # The row is locked, so that the sum over all accounts is counted one mint after another, too.
    written = tx.scalar(_THRESHOLD.with_for_update())
    try:
        threshold = read_threshold(written or str(FOUR_EYES_DEFAULT_MICRO))
    except ValueError as error:
        raise Unavailable(f"{error}.", code="config_invalid") from error
    since = add_seconds(tx.now, -_WINDOW_SECONDS)
    to_account = to_all = order.amount_micro
    for row in tx.all(_MINTED, actor=actor.id, since=since):
        minted = json.loads(row.details)
        if "proposalId" not in minted:
            amount_micro = int(minted["amountMicro"])
            to_all += amount_micro
            to_account += amount_micro if row.target_id == order.account_id else 0
    return to_account > threshold or to_all > threshold * ALL_ACCOUNTS_FACTOR


def read_threshold(written: str) -> int:
    """Read ``four_eyes_threshold_micro``. Raises ValueError unless it is a whole number."""
    if not written.isascii() or not written.isdigit() or len(written) > _DIGITS_MAX:
        raise ValueError(f"four_eyes_threshold_micro is {written[:40]!r}, not a whole number")
    return int(written)


_THRESHOLD = select(ConfigRow.value).where(ConfigRow.key == "four_eyes_threshold_micro")
_MINTED = select(AuditRow.target_id, AuditRow.details).where(
    AuditRow.action == "admin_mint",
    AuditRow.actor_id == text(":actor"),
    AuditRow.created_at > bindparam("since", type_=UtcTime()),
)
