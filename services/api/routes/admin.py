"""The admin API: accounts and mints, every change with its audit row (contract 5)."""

from flask import Response

from services.api.context import (
    actor,
    answer,
    answer_outcome,
    idempotency_key,
    parse_body,
    parse_query,
    services,
)
from services.api.operations import answer_balance, answer_history, count_outcome
from services.api.routes.admin_access import admin_blueprint
from services.api.routes.mint_proposals import answer_proposal
from services.api.schemas.answers.ledger import (
    AccountBalance,
    AccountOverview,
    Accounts,
    AccountWithBalance,
    ExplainedEntry,
    ExplainedReservation,
    History,
    Minted,
    ShadowSummary,
    Statement,
)
from services.api.schemas.answers.operations import ProposedMint
from services.api.schemas.requests import (
    AccountRequest,
    BalanceQuery,
    HistoryQuery,
    MintRequest,
    PageQuery,
    ShadowQuery,
    StatementQuery,
)
from shared.ids import new_id
from shared.ledger import explain, overview, queries, shadow_report, statements
from shared.openapi.operations import documented
from shared.operations import accounts, mints
from shared.operations.mint_orders import MintOrder

routes = admin_blueprint("admin")


@routes.post("/accounts")
@documented(
    {200: AccountWithBalance, 201: AccountWithBalance},
    body=AccountRequest,
    errors=("account_exists",),
)
def create_account() -> Response:
    """Make an account for an entity: 201, and 200 when it is there already."""
    body = parse_body(AccountRequest)
    with services().database.transaction() as tx:
        outcome = accounts.create(
            tx,
            actor(),
            entity_type=body.entity_type,
            entity_id=body.entity_id,
            account_id=body.account_id,
        )
    return answer_outcome(outcome, 200 if outcome.is_replay else 201)


@routes.get("/accounts")
@documented({200: Accounts}, query=PageQuery)
def list_accounts() -> Response:
    """List accounts in the order of their ids."""
    query = parse_query(PageQuery)
    with services().database.reading() as tx:
        return answer(queries.list_accounts(tx, limit=query.limit, after=query.cursor))


@routes.get("/accounts/<account_id>")
@documented({200: AccountOverview}, errors=("account_not_found",))
def show_account(account_id: str) -> Response:
    """Show an account: its pools, open lots, holds and debts, and its last entries."""
    with services().database.reading() as tx:
        return answer(overview.show(tx, account_id))


@routes.get("/accounts/<account_id>/balance")
@documented({200: AccountBalance}, query=BalanceQuery, errors=("account_not_found",))
def balance(account_id: str) -> Response:
    """Show an account's balance."""
    return answer_balance(account_id)


@routes.get("/accounts/<account_id>/history")
@documented({200: History}, query=HistoryQuery, errors=("account_not_found", "invalid_cursor"))
def history(account_id: str) -> Response:
    """Show an account's entries, newest first."""
    return answer_history(account_id)


@routes.get("/accounts/<account_id>/statement")
@documented(
    {200: Statement},
    query=StatementQuery,
    errors=("account_not_found", "period_is_empty", "period_too_long"),
)
def statement(account_id: str) -> Response:
    """Show what moved in a period, between the opening and the closing balance."""
    query = parse_query(StatementQuery)
    with services().database.reading() as tx:
        return answer(
            statements.statement(tx, account_id, since=query.since, until=query.until or tx.now)
        )


@routes.get("/explain/<subject_id>")
@documented({200: ExplainedReservation | ExplainedEntry})
def explain_subject(subject_id: str) -> Response:
    """Explain a reservation or an entry: its lots, where they came from, and the split."""
    with services().database.reading() as tx:
        return answer(explain.explain(tx, subject_id))


@routes.get("/shadow-summary")
@documented({200: ShadowSummary}, query=ShadowQuery, errors=("account_not_found",))
def shadow_summary() -> Response:
    """Show what shadow mode would have charged, and whom live mode would have refused."""
    query = parse_query(ShadowQuery)
    with services().database.reading() as tx:
        return answer(
            shadow_report.shadow_summary(
                tx,
                account_id=query.account_id,
                since=query.since,
                limit=query.limit,
                after=query.cursor,
            )
        )


@routes.post("/accounts/<account_id>/mint")
@documented(
    {200: ProposedMint, 201: Minted, 202: ProposedMint},
    body=MintRequest,
    is_keyed=True,
    errors=(
        "account_not_found",
        "already_credited",
        "amount_above_ceiling",
        "config_invalid",
        "payment_not_confirmed",
        "payment_of_another_account",
    ),
)
def mint(account_id: str) -> Response:
    """Give credits, for example for a payment whose notice never came (runbook 6).

    201, or 202 with a proposal for a second admin if it is more than one may mint.
    """
    body = parse_body(MintRequest)
    outcome, is_proposal = mints.mint(
        services().database,
        services().terms,
        actor(),
        MintOrder(
            account_id=account_id,
            lot_id=new_id(services().database.clock()),
            amount_micro=body.amount_micro,
            source_type=body.source_type,
            pool_id=body.pool_id,
            description=body.description,
            payment_id=body.payment_id,
            idempotency_key=idempotency_key(),
        ),
    )
    count_outcome(services(), "propose_mint" if is_proposal else "mint", outcome)
    return answer_proposal(outcome) if is_proposal else answer_outcome(outcome, 201)
