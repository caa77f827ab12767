"""Lists of wallets: what each gets is decided and checked as a whole, then kept as a job.

A list that is taken in has its part of the budget for sure: what it will still take is committed,
so two lists that come at the same time never exceed the budget together (W57).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, text

from shared.campaigns import formulas, lifecycle
from shared.campaigns.formulas import Formula
from shared.database import Message, Tx, insert_rows
from shared.errors import Conflict, Invalid, NotFound, Refused
from shared.ids import new_id
from shared.ledger.commands import Outcome
from shared.messaging import TaskName
from shared.models.campaigns import Grant, GrantBatch, GrantItem
from shared.operations.audit import Actor
from shared.parameters import member_of

BATCH_MAX = 1_000
LIST_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Wish:
    """One wallet of a list: an amount, or what the formula works with (JSON text of an object)."""

    account_id: str
    amount_micro: int | None = None
    formula_input: str | None = None


@dataclass(frozen=True)
class GrantList:
    """Wallets to be granted to: each with an amount, or none. ``key`` makes a repeat the same."""

    wishes: Sequence[Wish]
    key: str | None = None
    maximum: int = BATCH_MAX

    @property
    def fingerprint(self) -> str:
        """The content that a repeat with the same key must have."""
        told = [(one.account_id, one.amount_micro, one.formula_input) for one in self.wishes]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """What a list comes to. ``amounts`` are per wallet, ``new`` those that have no grant yet.

    ``formula`` tells how the amounts were computed, and as ``clippedMicro`` what the formula
    would have given beyond the cap and the budget; None if the caller gave the amounts.
    """

    amounts: Mapping[str, int]
    new: frozenset[str]
    formula: Mapping[str, Any] | None = None

    @property
    def new_micro(self) -> int:
        """What the list takes from the budget."""
        return sum(self.amounts[account] for account in self.new)


def submit(tx: Tx, actor: Actor, campaign_id: str, wanted: GrantList) -> Outcome:
    """Check *wanted* as a whole and keep it as a job; the answer names its ``batchId``.

    Refuses all of it (behaviour 9.3), which is audited: the campaign is unknown (404) or not active
    (409 ``campaign_not_active``), the list exceeds the budget or a wallet's cap
    (``budget_exceeded``, ``cap_exceeded``), is too long, or cannot be computed. Wallets that have
    their grant, or will get it from another list, take nothing from the budget (W56).
    """
    try:
        campaign = lifecycle.lock(tx, campaign_id)
        known = _known(tx, campaign_id, wanted)
        if known is not None:
            return Outcome({"batchId": known}, is_replay=True)
        _require_length(wanted)
        require_active(campaign)
        plan = make_plan(tx, campaign, wanted.wishes)
        _require_budget(tx, campaign, plan)
    except (NotFound, Conflict, Invalid, Refused) as refusal:
        return lifecycle.refuse(tx, actor, "batch_grant", campaign_id, refusal)
    return Outcome({"batchId": _keep(tx, actor, campaign_id, wanted, plan)})


def preview(
    tx: Tx,
    campaign_id: str,
    wishes: Sequence[Wish],
    *,
    grant_formula: str | None = None,
    grant_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what *wishes* would get, in whatever status the campaign is; nothing is changed.

    With another formula or other figures if they are given. Raises NotFound, Invalid, and Refused
    as :func:`submit` does.
    """
    campaign = tx.first(lifecycle.BY_ID, id=campaign_id)
    if campaign is None:
        raise NotFound("Campaign not found.", code="campaign_not_found")
    formula = None
    if grant_formula is not None or grant_config is not None:
        formula = formulas.read_formula(grant_formula or campaign.grant_formula, grant_config)
    plan = make_plan(tx, campaign, wishes, formula=formula)
    _require_budget(tx, campaign, plan)
    return {
        "campaignId": campaign_id,
        "formula": plan.formula,
        "wallets": len(plan.amounts),
        "totalNew": sum(plan.amounts[account] > 0 for account in plan.new),
        "totalAmountMicro": str(plan.new_micro),
        "remainingMicro": str(free_budget(tx, campaign) - plan.new_micro),
        "grants": [
            {
                "accountId": account,
                "amountMicro": str(amount),
                "status": _foreseen(amount, is_new=account in plan.new),
            }
            for account, amount in plan.amounts.items()
        ],
    }


def make_plan(
    tx: Tx, campaign: Row[Any], wishes: Sequence[Wish], *, formula: Formula | None = None
) -> Plan:
    """Return what each wallet of *wishes* gets; of one that is named twice, the first counts.

    Raises Invalid if some have an amount and some do not, or the formula cannot work with them.
    """
    firsts: dict[str, Wish] = {}
    for wish in wishes:
        firsts.setdefault(wish.account_id, wish)
    new = frozenset(firsts) - _provided(tx, campaign.id, list(firsts))
    explicit = {name: one.amount_micro for name, one in firsts.items() if one.amount_micro}
    if len(explicit) == len(firsts) and formula is None:
        _require_cap(campaign, explicit)
        return Plan(explicit, new)
    if explicit:
        raise Invalid(
            "Either every wallet has an amount, or none and the formula gives it.",
            code="mixed_amounts",
        )
    config = json.loads(campaign.grant_config) if campaign.grant_config else None
    formula = formula or formulas.read_formula(campaign.grant_formula, config)
    inputs = {name: _input(formula, one) for name, one in firsts.items()}
    shares = formulas.amounts(formula, inputs)
    given = formulas.clip(
        shares,
        cap_micro=campaign.per_wallet_cap_micro,
        remaining_micro=free_budget(tx, campaign),
        granted=frozenset(firsts) - new,
    )
    facts = {
        "name": formula.name,
        "version": formulas.VERSION,
        "figures": _figures(formula),
        "inputsTotal": str(sum(inputs.values())),
        "clippedMicro": str(sum(shares[name] - given[name] for name in new)),
    }
    return Plan({name: given[name] for name in firsts}, new, facts)


def free_budget(tx: Tx, campaign: Row[Any]) -> int:
    """Return the micro-USD of the budget that are neither spent nor committed, at least zero."""
    taken: int = campaign.spent_micro + lifecycle.committed(tx, campaign.id)
    return max(0, int(campaign.budget_micro) - taken)


def require_active(campaign: Row[Any]) -> None:
    """Raise Conflict (``campaign_not_active``) unless the campaign may grant (behaviour 107)."""
    if campaign.status != "active":
        raise Conflict(
            f"The campaign must be active to grant; it is {campaign.status}.",
            code="campaign_not_active",
            details={"status": campaign.status},
        )


def _known(tx: Tx, campaign_id: str, wanted: GrantList) -> str | None:
    """Return the list that came with this key before. Raises Conflict if it was another one."""
    row = tx.first(_BY_KEY, id=campaign_id, key=wanted.key) if wanted.key else None
    if row is None:
        return None
    if row.fingerprint != wanted.fingerprint:
        raise Conflict(
            "This idempotency key was used for a list with other content.",
            code="idempotency_conflict",
        )
    return str(row.id)


def _require_length(wanted: GrantList) -> None:
    if len(wanted.wishes) > wanted.maximum:
        raise Invalid(
            f"A list of {len(wanted.wishes)} wallets exceeds maximum {wanted.maximum}.",
            code="list_too_long",
        )
    if any(one.amount_micro is not None and one.amount_micro < 1 for one in wanted.wishes):
        raise Invalid("An amount must be greater than zero.", code="invalid_amount")


def _require_cap(campaign: Row[Any], amounts: Mapping[str, int]) -> None:
    for account, amount in amounts.items():
        if amount > campaign.per_wallet_cap_micro:
            raise Refused(
                f"{amount} micro-USD for {account} exceeds per-wallet cap"
                f" {campaign.per_wallet_cap_micro}.",
                code="cap_exceeded",
                details={"accountId": account, "capMicro": str(campaign.per_wallet_cap_micro)},
            )


def _require_budget(tx: Tx, campaign: Row[Any], plan: Plan) -> None:
    free = free_budget(tx, campaign)
    if plan.new_micro > free:
        raise Refused(
            f"The list would exceed budget: it needs {plan.new_micro} micro-USD, {free} are left.",
            code="budget_exceeded",
            details={"neededMicro": str(plan.new_micro), "remainingMicro": str(free)},
        )


def _provided(tx: Tx, campaign_id: str, accounts: list[str]) -> frozenset[str]:
    """Return those of *accounts* that have their grant, or for which another list has set it."""
    granted = tx.all(_GRANTED, id=campaign_id, accounts=accounts)
    awaited = tx.all(_AWAITED, id=campaign_id, accounts=accounts)
    return frozenset(row.account_id for row in [*granted, *awaited])


def _input(formula: Formula, wish: Wish) -> int:
    told = json.loads(wish.formula_input) if wish.formula_input else None
    try:
        return formulas.read_input(formula, told)
    except Invalid as error:
        raise Invalid(f"{wish.account_id}: {error.message}", code=error.code) from error


def _keep(tx: Tx, actor: Actor, campaign_id: str, wanted: GrantList, plan: Plan) -> str:
    batch_id = f"gb_{new_id(tx.now)}"
    batch = {
        "id": batch_id,
        "campaign_id": campaign_id,
        "created_by": actor.id,
        "idempotency_key": wanted.key,
        "fingerprint": wanted.fingerprint,
        "formula": json.dumps(plan.formula) if plan.formula else None,
        "total": len(wanted.wishes),
        "pending_micro": plan.new_micro,
        "due_at": tx.now,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, GrantBatch.__table__, [batch])
    committing = set(plan.new)
    items = []
    for position, wish in enumerate(wanted.wishes, start=1):
        amount = plan.amounts[wish.account_id]
        items.append(
            {
                "batch_id": batch_id,
                "position": position,
                "account_id": wish.account_id,
                "amount_micro": amount,
                "committed_micro": amount if wish.account_id in committing else 0,
                "formula_input": wish.formula_input,
            }
        )
        committing.discard(wish.account_id)  # one that is named twice gets one grant
    insert_rows(tx, GrantItem.__table__, items)
    tx.messages.append(Message(TaskName.GRANT_LISTS))
    return batch_id


def _figures(formula: Formula) -> dict[str, Any]:
    tiers = [{"threshold": str(one), "amountMicro": str(amount)} for one, amount in formula.tiers]
    figures: dict[str, dict[str, Any]] = {
        "fixed_amount": {"amountMicro": str(formula.amount_micro)},
        "proportional_loss": {"potMicro": str(formula.pot_micro)},
        "tiered": {"tiers": tiers},
    }
    return figures[formula.name]


def _foreseen(amount_micro: int, *, is_new: bool) -> str:
    if not is_new:
        return "existing"
    return "new" if amount_micro else "skipped"


_BY_KEY = select(GrantBatch.id, GrantBatch.fingerprint).where(
    GrantBatch.campaign_id == text(":id"), GrantBatch.idempotency_key == text(":key")
)
_GRANTED = select(Grant.account_id).where(
    Grant.campaign_id == text(":id"),
    Grant.status == "granted",
    member_of(Grant.account_id, "accounts"),
)
_AWAITED = (
    select(GrantItem.account_id)
    .join(GrantBatch, GrantBatch.id == GrantItem.batch_id)
    .where(
        GrantBatch.campaign_id == text(":id"),
        GrantBatch.state == "new",
        GrantItem.position > GrantBatch.position,
        GrantItem.committed_micro > 0,
        member_of(GrantItem.account_id, "accounts"),
    )
)
