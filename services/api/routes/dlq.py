"""The admin API of the dead-letter queue: list, show, retry (or rehearse), resolve (contract 5)."""

from flask import Response

from services.api.context import (
    actor,
    answer,
    parse_body,
    parse_query,
    services,
)
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.operations import DeadLetter, DeadLetters, Rehearsal
from services.api.schemas.dlq import LettersQuery, ResolveRequest, RetryQuery
from shared.openapi.operations import documented
from shared.operations import dead_letters

routes = admin_blueprint("dlq")


@routes.get("")
@documented({200: DeadLetters}, query=LettersQuery)
def list_letters() -> Response:
    """List dead letters, oldest first, with how many there are by status."""
    query = parse_query(LettersQuery)
    wanted = dead_letters.LetterFilter(
        status=query.status, operation=query.operation, limit=query.limit, after=query.cursor
    )
    with services().database.reading() as tx:
        return answer(dead_letters.list_letters(tx, wanted))


@routes.get("/<letter_id>")
@documented({200: DeadLetter}, errors=("dead_letter_not_found",))
def show_letter(letter_id: str) -> Response:
    """Show one dead letter."""
    with services().database.reading() as tx:
        return answer(dead_letters.show_letter(tx, letter_id))


@routes.post("/<letter_id>/retry")
@documented(
    {200: DeadLetter | Rehearsal},
    query=RetryQuery,
    errors=("config_invalid", "dead_letter_not_found", "not_retryable"),
)
def retry(letter_id: str) -> Response:
    """Try its work again now; with ``?dryRun=true`` show what that would do, and do nothing."""
    if parse_query(RetryQuery).dry_run:
        return answer(dead_letters.rehearse(services().intake, letter_id))
    return answer(dead_letters.retry(services().intake, actor(), letter_id))


@routes.post("/<letter_id>/resolve")
@documented(
    {200: DeadLetter}, body=ResolveRequest, errors=("already_resolved", "dead_letter_not_found")
)
def resolve(letter_id: str) -> Response:
    """Close it by a person's decision."""
    body = parse_body(ResolveRequest)
    closed = dead_letters.resolve(
        services().database,
        actor(),
        letter_id,
        reason=body.reason,
        resolution=body.resolution,
    )
    return answer(closed)
