"""The admin API of the reconciliation: the last result, a run now, earlier runs (contract 5)."""

from flask import Response, request

from services.api.context import (
    actor,
    answer,
    answer_outcome,
    parse_body,
    parse_query,
    require_version,
    services,
)
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.operations import (
    LastReconciliation,
    ReconciliationHead,
    ReconciliationRun,
    ReconciliationRuns,
)
from services.api.schemas.reconciliation import RunRequest, RunsQuery
from services.api.waiting import wait_for
from shared.ledger.commands import Outcome
from shared.openapi.operations import documented
from shared.reconciliation import runs, views

routes = admin_blueprint("reconciliation")


@routes.get("")
@documented({200: LastReconciliation}, is_versioned=True)
def show_last() -> Response:
    """Show when the books were last compared, and what was found; {} before the first time."""
    require_version()
    with services().database.reading() as tx:
        return answer(views.last_result(tx))


@routes.post("/run")
@documented(
    {200: ReconciliationRun | ReconciliationHead, 202: ReconciliationRun | ReconciliationHead},
    body=RunRequest,
    is_body_optional=True,
    takes={"Prefer": "wait=N: wait up to N seconds, 30 at most, for the run to be done."},
    sends={"Location": "Where the run can be looked at."},
)
def run() -> Response:
    """Compare now: 202 with the job, or 200 if it ends within the time of ``Prefer: wait=N``.

    One run of a kind is open at a time; a second request is answered with that one.
    """
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    body = parse_body(RunRequest) if has_body else RunRequest()
    require_version()
    outcome = runs.request(
        services().database,
        actor(),
        body.kind,
        asks_provider=body.provider,
        days=body.provider_days,
    )
    job = outcome.unwrap()
    job = wait_for(job, lambda tx: views.show_run(tx, job["runId"]))
    status = 202 if job["doneAt"] is None else 200
    told = answer_outcome(Outcome(job, is_replay=outcome.is_replay), status)
    told.headers["Location"] = f"/admin/billing/reconciliation/runs/{job['runId']}"
    return told


@routes.get("/runs")
@documented({200: ReconciliationRuns}, query=RunsQuery)
def list_runs() -> Response:
    """List runs, newest first."""
    query = parse_query(RunsQuery)
    wanted = views.RunFilter(query.kind, query.limit, query.cursor)
    with services().database.reading() as tx:
        return answer(views.list_runs(tx, wanted))


@routes.get("/runs/<run_id>")
@documented({200: ReconciliationRun}, errors=("reconciliation_run_not_found",))
def show_run(run_id: str) -> Response:
    """Show a run with what it has found so far."""
    with services().database.reading() as tx:
        return answer(views.show_run(tx, run_id))
