"""What is forgotten in time, and what never is."""

import pytest

from shared.errors import Unavailable
from shared.operations import retention
from tests.harness import make_id
from tests.ledger import Ledger
from tests.till import Till

_DAY_HOURS = 24


def _bodies(ledger: Ledger) -> list[tuple[str, int]]:
    found = ledger.rows("SELECT state, length(raw_body) FROM webhook_events ORDER BY id")
    return [(state, length) for state, length in found]


def _letter(ledger: Ledger, status: str) -> None:
    ledger.sql(
        "INSERT INTO billing_dlq (id, operation_type, subject_id, payload, status, completed_at)"
        " VALUES (:id, 'webhook', :id, '{}', :status, :at)",
        id=make_id(),
        status=status,
        at=ledger.rows("SELECT max(done_at) FROM webhook_events")[0][0],
    )


def test_a_done_notice_loses_its_body_in_time_and_nothing_else(ledger: Ledger) -> None:
    """The reading of it stays, so a replay of an old notice works and credits nothing again."""
    till = Till(ledger)
    payment = till.paid()
    [(state, length)] = _bodies(ledger)
    assert (state, length > 0) == ("done", True)
    ledger.clock.advance(hours=int(retention.BODY_DAYS) * _DAY_HOURS)
    assert (retention.sweep(ledger.database), _bodies(ledger)[0][1]) == (0, length)
    money = ledger.everything()
    ledger.clock.advance(seconds=1)
    assert [retention.sweep(ledger.database) for _ in range(2)] == [1, 0]
    assert _bodies(ledger) == [("done", 0)]
    till.replay(payment)
    assert ledger.everything() == money


def test_a_notice_that_is_not_done_keeps_its_body(ledger: Ledger) -> None:
    till = Till(ledger)
    till.tell(till.payment(), "waiting")
    ledger.clock.advance(hours=9_999 * _DAY_HOURS)
    assert retention.sweep(ledger.database) == 0
    assert _bodies(ledger)[0][1] > 0


def test_only_healed_letters_are_forgotten_and_only_in_time(ledger: Ledger) -> None:
    Till(ledger).paid()
    _letter(ledger, "completed")
    _letter(ledger, "manual_review")
    ledger.clock.advance(hours=int(retention.LETTER_DAYS) * _DAY_HOURS)
    retention.sweep(ledger.database)
    assert ledger.rows("SELECT count(*) FROM billing_dlq") == [(2,)]
    ledger.clock.advance(seconds=1)
    assert retention.sweep(ledger.database) == 1
    assert ledger.rows("SELECT status FROM billing_dlq") == [("manual_review",)]


@pytest.mark.parametrize(("written", "is_allowed"), [("0", True), ("31", True), ("30", False)])
def test_a_time_that_is_too_short_forgets_nothing(
    ledger: Ledger, written: str, is_allowed: bool
) -> None:
    """0 keeps for ever; less than the checklist of the modes looks back is refused."""
    Till(ledger).paid()
    ledger.sql(
        "INSERT INTO billing_config (key, value) VALUES ('notice_body_days', :value)", value=written
    )
    ledger.clock.advance(hours=32 * _DAY_HOURS)
    if is_allowed:
        assert retention.sweep(ledger.database) == int(written != "0")
        return
    with pytest.raises(Unavailable, match="notice_body_days is '30'"):
        retention.sweep(ledger.database)
    assert _bodies(ledger)[0][1] > 0
