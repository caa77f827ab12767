"""Accounts made by admins and operators, with the audit row of each and of each refusal (W69)."""

from shared.database import Tx
from shared.errors import Conflict
from shared.ledger import accounts, queries
from shared.ledger.commands import Outcome
from shared.operations.audit import Actor, record


def create(
    tx: Tx, actor: Actor, *, entity_type: str, entity_id: str, account_id: str | None = None
) -> Outcome:
    """Return the account of an entity as callers see it; a repeat if it was there already.

    A refusal (Conflict ``account_exists``) changes nothing, but its audit row must be kept, so
    it is returned: the caller commits either.
    """
    is_new = False
    try:
        made_id, is_new = accounts.create_account(
            tx, entity_type=entity_type, entity_id=entity_id, account_id=account_id
        )
        outcome = Outcome(queries.show_account(tx, made_id), is_replay=not is_new)
    except Conflict as refusal:
        made_id, outcome = refusal.details["accountId"], Outcome(error=refusal)
    if is_new or outcome.error is not None:
        record(
            tx,
            actor,
            "account_create" if is_new else "account_create_refused",
            target_type="account",
            target_id=made_id,
            details={"entityType": entity_type, "entityId": entity_id},
        )
    return outcome
