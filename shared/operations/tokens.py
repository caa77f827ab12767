"""Admin tokens that are refused before their time is over, by their jti (contract 3, W65)."""

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, select

from shared.clock import add_seconds, to_wire
from shared.database import Database, Tx, upsert_rows
from shared.errors import Invalid
from shared.ledger.commands import Outcome
from shared.models.operations import RevokedToken
from shared.models.types import UtcTime
from shared.operations.audit import Actor, record
from shared.parameters import member_of

# The longest life of an admin's token, the leeway at both of its ends, and a minute for clocks.
LONGEST_SECONDS = 3600 + 2 * 30 + 60
JTI_MAX_CHARACTERS = 255
_BATCH = 500


def revoke(
    tx: Tx, actor: Actor, jti: str, *, reason: str, until: datetime | None = None
) -> Outcome:
    """Refuse the admin tokens of *jti* from now on, in every process within five seconds.

    The row may be forgotten at *until*, which is when the token is over: by default after the
    longest life of any. Again is harmless; a later *until* wins. Refuses with Invalid
    (``invalid_jti``, ``until_is_past``); done or refused, it is audited, so the caller commits.
    """
    about: dict[str, Any] = {"target_type": "token", "target_id": jti[:JTI_MAX_CHARACTERS]}
    expires_at = until or add_seconds(tx.now, LONGEST_SECONDS)
    refusal = None
    if not 0 < len(jti) <= JTI_MAX_CHARACTERS or not jti.isprintable():
        refusal = Invalid("A jti has 1 to 255 printable characters.", code="invalid_jti")
        about["target_id"] = "invalid"  # it may hold what no column can
    elif expires_at <= tx.now:
        refusal = Invalid("That time is over, and the token with it.", code="until_is_past")
    if refusal is not None:
        details = {"reason": reason, "refusedBecause": refusal.code}
        record(tx, actor, "token_revoke_refused", details=details, **about)
        return Outcome(error=refusal)
    known = tx.first(_BY_JTI.with_for_update(), jti=jti)
    if known is not None:
        expires_at = max(known.expires_at, expires_at)
    row = {"jti": jti, "expires_at": expires_at, "revoked_by": actor.id, "reason": reason}
    upsert_rows(tx, RevokedToken.__table__, [row], key=("jti",))
    facts = {"reason": reason, "until": to_wire(expires_at)}
    record(tx, actor, "token_revoke", details=facts, **about)
    return Outcome({"jti": jti, "revokedUntil": to_wire(expires_at), "actsWithinSeconds": 5})


def revoked(tx: Tx) -> AbstractSet[str]:
    """Return the jti of every token that is revoked and may not be over yet."""
    return {row.jti for row in tx.all(_REVOKED, now=tx.now)}


def sweep(database: Database) -> int:
    """Forget one batch of revocations whose tokens are over anyway; return how many."""
    with database.transaction() as tx:
        over = [row.jti for row in tx.all(_OVER, now=tx.now)]
        if over:
            tx.run(_FORGET, jtis=over, now=tx.now)
        return len(over)


_NOW = bindparam("now", type_=UtcTime())
_BY_JTI = select(RevokedToken.expires_at).where(RevokedToken.jti == bindparam("jti"))
_REVOKED = select(RevokedToken.jti).where(RevokedToken.expires_at > _NOW)
_OVER = select(RevokedToken.jti).where(RevokedToken.expires_at <= _NOW).limit(_BATCH)
_FORGET = delete(RevokedToken).where(
    member_of(RevokedToken.jti, "jtis"), RevokedToken.expires_at <= _NOW
)
