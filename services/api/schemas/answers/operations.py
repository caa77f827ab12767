"""Answers about settings, the mode, tokens, the audit log, revenue rules and dead letters."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.api.schemas.answers.fields import Answer, Micro, Mode, NextCursor, Time
from services.api.schemas.answers.ledger import Bps
from services.api.schemas.mint_proposals import ProposalStatus
from services.api.schemas.reconciliation import RunKind


class Setting(Answer):
    """A setting that operators change at run time."""

    key: str
    value: str | None
    is_seed: bool
    meaning: str
    unit: str
    allowed: str
    is_read_only: bool
    updated_at: Time | None


class Settings(Answer):
    """All settings; ``fault`` says what makes no sense together."""

    settings: list[Setting]
    fault: str | None


class ChangedValue(Answer):
    """A value before and after."""

    old: str | None
    new: str


class ChangedSettings(Answer):
    """What was changed; running processes obey within the seconds told."""

    changed: dict[str, ChangedValue]
    acts_within_seconds: int


class ModeChange(Answer):
    """A change of the mode, done or refused."""

    action: str
    actor_id: str
    at: Time
    details: dict[str, Any]


class ShownMode(Answer):
    """The mode, since when, and its last changes."""

    mode: Mode
    since: Time | None
    changes: list[ModeChange]


class ReadinessItem(Answer):
    """A point of the checklist and what the data says."""

    id: str
    asks: str
    before: Mode
    value: str | None
    threshold: str
    met: Literal["yes", "no", "unknown"]
    figures: dict[str, Any]
    evidence: list[dict[str, Any]]


class Readiness(Answer):
    """Whether the evidence for a higher mode is there."""

    mode: Mode
    window_days: int
    items: list[ReadinessItem]
    ready: dict[str, bool]


class ModeSet(Answer):
    """The mode in force now; ``unmet`` are the points that were forced."""

    mode: Mode
    before: Mode
    is_changed: bool
    unmet: list[str]


class RevokedToken(Answer):
    """A token that is refused in every process within the seconds told."""

    jti: str
    revoked_until: Time
    acts_within_seconds: int


class AuditRow(Answer):
    """What somebody did, or was refused."""

    id: str
    actor_type: str
    actor_id: str
    action: str
    details: dict[str, Any]
    created_at: Time


class AuditRowOfTarget(AuditRow):
    """The same, with what it was done to."""

    target_type: str | None
    target_id: str | None


class Audit(Answer):
    """A page of the audit log."""

    audit: list[AuditRowOfTarget]
    next_cursor: NextCursor


class AuditTrail(Answer):
    """A page of what was done to one thing."""

    audit: list[AuditRow]
    next_cursor: NextCursor


class Shares(Answer):
    """Who gets which part of a charge, in bps."""

    commons_bps: Bps
    community_bps: Bps
    foundation_bps: Bps


class RevenueRule(Shares):
    """Shares that were proposed, and how far they have come."""

    rule_id: str
    name: str
    status: str
    notes: str | None
    reason: str | None
    proposed_by: str
    submitted_by: str | None
    approved_by: str | None
    overridden_by: str | None
    rejected_by: str | None
    proposed_at: Time
    submitted_at: Time | None
    approved_at: Time | None
    activates_at: Time | None
    activated_at: Time | None
    rejected_at: Time | None
    superseded_at: Time | None


class RevenueRules(Answer):
    """A page of rules."""

    revenue_rules: list[RevenueRule]
    next_cursor: NextCursor


class ActiveRevenueRule(Answer):
    """The active rule and the rates in force; they differ after a change by SQL."""

    revenue_rule: RevenueRule | None
    rates_in_force: Shares | None
    differs: bool
    fault: str | None


class DeadLetter(Answer):
    """Work that failed and waits, for its next retry or for a person."""

    id: str
    operation: str
    status: Literal["pending", "processing", "completed", "failed", "manual_review"]
    subject_id: str | None
    error: str | None
    retries: int
    next_retry_at: Time | None
    payload: Any
    created_at: Time
    updated_at: Time
    completed_at: Time | None


class DeadLetters(Answer):
    """A page of dead letters, and how many there are by status."""

    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next_cursor: NextCursor


class RehearsedNotice(Answer):
    """What working off a notice would do; ``ledger`` tells each movement, or why it is refused."""

    event_id: str
    status: str | None
    outcome: str
    reason: str | None
    ledger: list[dict[str, Any]]


class Rehearsal(Answer):
    """What a retry would do; nothing was changed."""

    dead_letter: DeadLetter
    events: list[RehearsedNotice]


class MintProposal(Answer):
    """A large mint that a second admin decides on; its lot once it is approved."""

    proposal_id: str
    status: ProposalStatus
    account_id: str
    amount_micro: Micro
    source_type: str
    pool_id: str
    description: str | None
    payment_id: str | None
    proposed_by: str
    proposed_at: Time
    expires_at: Time
    approved_by: str | None
    rejected_by: str | None
    decided_at: Time | None
    reason: str | None
    lot_id: str | None


class MintProposals(Answer):
    """A page of proposals."""

    mint_proposals: list[MintProposal]
    next_cursor: NextCursor


class ProposedMint(MintProposal):
    """A mint that became a proposal, and where it is approved while it waits."""

    code: Literal["four_eyes_required"]
    message: str
    look_up: str
    approve: str | None


class RehearsedCheck(Answer):
    """A check in a mode, and its figures or why it failed."""

    model_config = ConfigDict(extra="allow")

    mode: str
    check: str
    passed: bool
    at: Time


class Rehearsed(Answer):
    """What was tried on the sandbox account."""

    account_id: str
    passed: bool
    checks: list[RehearsedCheck]


class LastReconciliation(Answer):
    """When the books were last compared, and what was found; before the first time, nothing."""

    last_reconciliation_at: str | None
    result: dict[str, Any]


class ReconciliationHead(Answer):
    """A run of the reconciliation."""

    run_id: str
    kind: RunKind
    status: str
    passed: bool | None
    generation: int | None
    checks_done: int
    accounts_checked: int | None
    accounts_drifted: int | None
    requested_by: str | None
    created_at: Time
    started_at: Time | None
    done_at: Time | None


class ReconciliationRun(ReconciliationHead):
    """A run with what it has found so far."""

    result: Any


class ReconciliationRuns(Answer):
    """A page of runs."""

    runs: list[ReconciliationHead]
    next_cursor: NextCursor
