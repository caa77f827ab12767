"""The circuit breaker: opens after five failures in a row; thirty seconds later one call tries."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.payments.providers.breaker import FAILURES_TO_OPEN, OPEN_SECONDS, Breaker
from tests.scripted_provider import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def open_it(breaker: Breaker) -> None:
    told = [breaker.failed() for _ in range(FAILURES_TO_OPEN)]
    assert told == [False] * (FAILURES_TO_OPEN - 1) + [True]


def test_it_opens_at_the_fifth_failure_in_a_row_and_tells_the_time_left(
    breaker: Breaker, clock: Clock
) -> None:
    assert (FAILURES_TO_OPEN, OPEN_SECONDS) == (5, 30.0)
    for _ in range(4):
        breaker.failed()
        assert breaker.seconds_to_wait() == 0
    breaker.failed()
    assert breaker.seconds_to_wait() == 30
    clock.seconds += 29.5
    assert breaker.seconds_to_wait() == 0.5


def test_a_success_in_between_starts_the_count_again(breaker: Breaker) -> None:
    for _ in range(3):
        for _ in range(4):
            assert not breaker.failed()
        assert not breaker.succeeded()
    assert breaker.seconds_to_wait() == 0


def test_after_the_pause_one_call_tries_and_its_success_closes(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker)
    clock.seconds += 30
    assert breaker.seconds_to_wait() == 0
    assert breaker.seconds_to_wait() == 30
    assert breaker.succeeded()
    assert [breaker.seconds_to_wait() for _ in range(3)] == [0, 0, 0]
    assert not breaker.failed()


def test_a_failed_try_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.seconds += 30
    assert breaker.seconds_to_wait() == 0
    clock.seconds += 8
    assert breaker.failed()
    assert breaker.seconds_to_wait() == 30


def test_a_try_that_never_reports_does_not_keep_it_open_for_ever(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker)
    for _ in range(3):
        clock.seconds += 30
        assert breaker.seconds_to_wait() == 0
        assert breaker.seconds_to_wait() == 30


def test_of_many_threads_one_may_try(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.seconds += 30
    start = threading.Barrier(8)

    def ask(_number: int) -> float:
        start.wait()
        return breaker.seconds_to_wait()

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(ask, range(8))) == [0] + [30] * 7
