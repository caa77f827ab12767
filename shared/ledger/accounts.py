"""Accounts: made once for each entity, however many ask at the same time (W26)."""

from sqlalchemy import select, text

from shared.database import Tx
from shared.errors import Conflict, NotFound
from shared.ids import new_id
from shared.models.ledger import Account

_BY_ENTITY = select(Account.id).where(
    Account.entity_type == text(":entity_type"), Account.entity_id == text(":entity_id")
)


def create_account(
    tx: Tx, *, entity_type: str, entity_id: str, account_id: str | None = None
) -> tuple[str, bool]:
    """Return the account of an entity and whether it was made now.

    Raises Conflict (``account_exists``) if *account_id* is given and either it belongs to
    another entity, or the entity has another account already.
    """
    wanted = account_id or new_id(tx.now)
    inserted = tx.first(
        text(
            "INSERT INTO credit_accounts (id, entity_type, entity_id) "
            "VALUES (:id, :entity_type, :entity_id) ON CONFLICT DO NOTHING RETURNING id"
        ),
        id=wanted,
        entity_type=entity_type,
        entity_id=entity_id,
    )
    if inserted is not None:
        return wanted, True
    existing = tx.scalar(_BY_ENTITY, entity_type=entity_type, entity_id=entity_id)
    if existing is None or (account_id is not None and existing != account_id):
        raise Conflict(
            "The account id or the entity is already in use.",
            code="account_exists",
            details={"accountId": existing or wanted},
        )
    return str(existing), False


def account_of(tx: Tx, *, entity_type: str, entity_id: str) -> str:
    """Return the id of an entity's account. Raises NotFound (``account_not_found``)."""
    found = tx.scalar(_BY_ENTITY, entity_type=entity_type, entity_id=entity_id)
    if found is None:
        raise NotFound(f"{entity_type} {entity_id} has no account.", code="account_not_found")
    return str(found)
