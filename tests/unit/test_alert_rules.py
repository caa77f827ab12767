"""The rules of the alerts at their thresholds: pure, figures in and decisions out."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.alerts import rules
from shared.alerts.figures import _READERS
from shared.alerts.rules import RULES, Figure, Limits, Move, decide, is_above

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_the_nine_alerts_of_the_runbook_have_its_thresholds() -> None:
    """Behaviour 187: every alert of section 17 is computed."""
    critical = {
        "dlq_depth": 50,
        "reconciliation_drift": 100,
        "overrun_rate": 500,
        "payment_failure_rate": 1_000,
        "lot_invariant": 0,
    }
    warning = {
        "dlq_manual_review": 0,
        "balance_cache_miss_rate": 5_000,
        "reservation_expiry_rate": 2_000,
        "campaign_budget": 9_000,
    }
    for severity, expected in (("critical", critical), ("warning", warning)):
        for name, above in expected.items():
            assert (RULES[name].severity, RULES[name].limits.above) == (severity, above)
    assert _READERS.keys() == RULES.keys()


@pytest.mark.parametrize(
    ("above", "sample", "value", "out_of", "fires"),
    [
        (50, None, 50, None, False),
        (50, None, 51, None, True),
        (0, None, 0, None, False),
        (0, None, 1, None, True),
        (500, 20, 5, 100, False),  # 5 % is not above 5 %
        (500, 20, 6, 100, True),
        (500, 20, 1, 1, False),  # one of one tells nothing
        (500, 20, 19, 19, False),
        (500, 20, 2, 20, True),
        (500, 20, 500_000_000_001, 10_000_000_000_000, True),  # whole numbers lose no digit
        (500, 20, 0, 0, False),
        (9_000, 1, 0, 0, False),
    ],
)
def test_it_fires_above_the_threshold_and_never_at_it(
    above: int, sample: int | None, value: int, out_of: int | None, fires: bool
) -> None:
    limits = Limits(above, None if sample is None else 60, sample)
    assert is_above(limits, Figure(value, out_of)) is fires


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10_000), st.integers(1, 1000))
def test_more_bad_ones_never_silence_an_alert(bad: int, good: int, above: int, sample: int) -> None:
    limits = Limits(above, 60, sample)
    if is_above(limits, Figure(bad, bad + good)):
        assert is_above(limits, Figure(bad + 1, bad + good + 1))
        assert not is_above(limits, Figure(0, bad + good))


@pytest.mark.parametrize(
    ("above", "firing", "calm", "move"),
    [
        (True, False, None, Move.FIRE),
        (True, True, 0, Move.KEEP),
        (False, False, None, Move.NONE),
        (False, True, 59, Move.KEEP),
        (False, True, 60, Move.CLEAR),
    ],
)
def test_it_fires_at_once_and_clears_after_a_calm_minute(
    above: bool, firing: bool, calm: int | None, move: Move
) -> None:
    above_at = None if calm is None else NOW - timedelta(seconds=calm)
    found = decide(above=above, firing=firing, above_at=above_at, now=NOW, clear_seconds=60)
    assert found is move


@given(st.lists(st.booleans(), max_size=60))
def test_a_figure_that_jumps_about_its_threshold_fires_once(jumps: list[bool]) -> None:
    firing, above_at, moves = False, None, []
    for step, above in enumerate(jumps):
        now = NOW + timedelta(seconds=15 * step)
        above_at = now if above else above_at
        move = decide(above=above, firing=firing, above_at=above_at, now=now, clear_seconds=60)
        firing = {Move.FIRE: True, Move.CLEAR: False}.get(move, firing)
        moves += [move] if move in (Move.FIRE, Move.CLEAR) else []
    assert moves == [(Move.FIRE, Move.CLEAR)[n % 2] for n in range(len(moves))]
    calm = [len(run) for run in "".join("x" if j else "." for j in jumps).split("x")[1:-1]]
    if calm and max(calm) < 4:
        assert moves.count(Move.FIRE) == 1


@pytest.mark.parametrize("name", RULES)
def test_the_default_limits_are_allowed_and_a_part_keeps_the_rest(name: str) -> None:
    rule = RULES[name]
    assert rules.read_limits(rule, rules.limits_text(rule.limits)) == rule.limits
    assert rules.read_limits(rule, "{}") == rule.limits
    assert rules.read_limits(rule, '{"above": 7}').above == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("overrun_rate", ""),
        ("overrun_rate", "5"),
        ("overrun_rate", '{"above": 10001}'),
        ("overrun_rate", '{"above": true}'),
        ("overrun_rate", '{"above": 5.5}'),
        ("overrun_rate", '{"sample": 0}'),
        ("overrun_rate", '{"windowSeconds": 59}'),
        ("overrun_rate", '{"below": 1}'),
        ("dlq_depth", '{"sample": 5}'),
        ("dlq_depth", '{"above": -1}'),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_their_key(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"alert_{name}"):
        rules.read_limits(RULES[name], text)


@pytest.mark.parametrize("text", ["", "-1", "3601", "1.5", "٣", "9" * 5000])
def test_a_calm_time_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="alert_clear_seconds"):
        rules.read_clear_seconds(text)


def test_the_demotion_is_yes_or_no() -> None:
    assert [rules.read_demote(word) for word in ("yes", "no")] == [True, False]
    with pytest.raises(ValueError, match="demote_on_402_spike"):
        rules.read_demote("true")


def test_a_message_says_what_was_found_and_what_may_be() -> None:
    told = rules.message(
        RULES["campaign_budget"], RULES["campaign_budget"].limits, Figure(95, 100, "c1", "Spring")
    )
    assert told == (
        "campaign_budget c1 is 95 of 100 (95.00 %), alert at > 90.00 % of a campaign's "
        "budget: Spring"
    )
