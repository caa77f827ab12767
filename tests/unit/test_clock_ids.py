"""Times and ids: order of text is order of time (behaviour 15), and ids only ever grow."""

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids
from shared.clock import add_seconds, from_stored, system_clock, to_stored, to_wire
from shared.ids import new_id

moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


def test_a_stored_time_has_a_space_and_no_zone() -> None:
    """Behaviour 15; what is below the second is kept, because holds are compared by it."""
    moment = datetime(2026, 3, 15, 14, 30, 45, tzinfo=UTC)
    assert to_stored(moment) == "2026-03-15 14:30:45"
    assert to_stored(moment.replace(microsecond=123_000)) == "2026-03-15 14:30:45.123000"


def test_seconds_are_added_across_hours_and_days() -> None:
    """Behaviour 15."""
    assert to_stored(add_seconds(NOON, 3600)) == "2026-03-15 13:00:00"
    assert to_stored(add_seconds(NOON, 48 * 3600)) == "2026-03-17 12:00:00"


def test_a_time_of_another_zone_is_stored_and_sent_in_utc() -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2026, 3, 15, 20, 0, 45, 123_999, tzinfo=india)
    assert to_stored(moment) == "2026-03-15 14:30:45.123999"
    assert to_wire(moment) == "2026-03-15T14:30:45.123Z"


def test_a_time_is_sent_in_milliseconds() -> None:
    assert to_wire(NOON) == "2026-03-15T12:00:00.000Z"


@given(moments, moments)
def test_the_order_of_stored_text_is_the_order_of_time(one: datetime, other: datetime) -> None:
    """Behaviour 15."""
    assert (to_stored(one) < to_stored(other)) == (one < other)


@given(moments, st.integers(0, 999_999))
def test_whole_seconds_sort_before_their_parts(moment: datetime, microsecond: int) -> None:
    whole = moment.replace(microsecond=0)
    assert to_stored(whole) <= to_stored(moment.replace(microsecond=microsecond))


@given(moments)
def test_a_stored_time_is_read_as_it_was(moment: datetime) -> None:
    assert from_stored(to_stored(moment)) == moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-15T14:30:45Z",
        "2026-03-15T14:30:45",
        "",
        "2026-03-15",
        "14:30:45",
        "now",
        "2026-03-15 14:30:45Z",
        "2026-03-15 14:30:45+00",
        "2026-13-15 14:30:45",
    ],
)
def test_other_forms_of_a_time_are_refused(text: str) -> None:
    """Behaviour 15."""
    with pytest.raises(ValueError):
        from_stored(text)


def test_the_clock_knows_its_zone() -> None:
    assert system_clock().tzinfo is UTC


def test_an_id_is_a_uuid_of_version_seven_with_its_milliseconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other tests of this process may have lived in the future, and ids never step back.
    monkeypatch.setattr(ids, "_last_millisecond", 0)
    moment = system_clock() + timedelta(days=1)
    made = uuid.UUID(new_id(moment))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == int(moment.timestamp() * 1000)


def test_ids_grow_within_a_millisecond() -> None:
    moment = system_clock()
    made = [new_id(moment) for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ids_grow_when_the_clock_steps_back() -> None:
    moment = system_clock() + timedelta(days=2)
    offsets = (0, -1, -3600, 5, -86_400, 6, 0, 0, 7)
    made = [new_id(add_seconds(moment, offset)) for offset in offsets]
    assert made == sorted(set(made))


def test_ids_grow_in_every_thread_and_are_never_given_twice() -> None:
    start, made = threading.Barrier(8), []

    def make() -> None:
        start.wait()
        mine = [new_id(system_clock()) for _ in range(2_000)]
        made.append(mine)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [mine for mine in made if mine != sorted(mine)] == []
    assert len({one for mine in made for one in mine}) == 16_000


def test_an_id_made_after_another_threads_id_is_larger() -> None:
    largest: list[str] = [new_id(system_clock())]
    lock, turns = threading.Lock(), 500

    def make() -> None:
        for _ in range(turns):
            with lock:
                largest.append(new_id(system_clock()))
            time.sleep(0)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(largest) == 4 * turns + 1
    assert largest == sorted(set(largest))


def test_early_years_keep_their_four_digits() -> None:
    moment = datetime(637, 4, 13, 9, 58, 27, tzinfo=UTC)
    assert to_wire(moment) == "0637-04-13T09:58:27.000Z"
    assert to_stored(moment) == "0637-04-13 09:58:27"
    assert from_stored(to_stored(moment)) == moment
