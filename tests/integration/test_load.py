"""The load of the earlier system's own test: holds, deposits and the sweeper at the same time."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from shared.ledger.commands import Mint
from tests.harness import make_id
from tests.ledger import Ledger

CYCLES, HOLD, COST = 50, 10_000, 8_000
DEPOSITORS, DEPOSITS, DEPOSIT = 5, 10, 1_000
PATIENCE_SECONDS = (
    5.0  # a machine that does other things too is no failure; the figures are printed
)


def timed(durations: list[float], operation: Callable[[], object]) -> object:
    began = time.perf_counter()
    found = operation()
    durations.append(time.perf_counter() - began)
    return found


def test_cycles_deposits_and_sweeps_at_once_lose_nothing(ledger: Ledger) -> None:
    """Behaviour 126; `make bench` holds the figures to their targets, this the books."""
    account = ledger.funded(CYCLES * HOLD)
    reserves: list[float] = []
    finalizes: list[float] = []
    is_over = threading.Event()

    def cycle() -> None:
        for _ in range(CYCLES):
            hold = str(timed(reserves, lambda: ledger.reserve(account, HOLD)))
            timed(finalizes, lambda hold=hold: ledger.finalize(hold, COST))

    def deposit() -> None:
        for _ in range(DEPOSITS):
            ledger.answer(Mint(account, make_id(), DEPOSIT, "deposit"))

    def sweep() -> None:
        while not is_over.wait(0.05):
            ledger.sweep()

    with ThreadPoolExecutor(DEPOSITORS + 2) as threads:
        sweeping = threads.submit(sweep)
        work = [threads.submit(cycle), *(threads.submit(deposit) for _ in range(DEPOSITORS))]
        try:
            for one in work:
                one.result()
        finally:
            is_over.set()
        sweeping.result()
    left = CYCLES * (HOLD - COST) + DEPOSITORS * DEPOSITS * DEPOSIT
    assert ledger.balance(account) == (left, 0, 0)
    assert sum(sum(lot) for lot in ledger.lots(account)) == left + CYCLES * COST
    for name, durations in (("reserve", reserves), ("finalize", finalizes)):
        slowest = max(durations)
        print(f"{name}: the slowest of {CYCLES} took {slowest * 1000:.1f} ms")  # noqa: T201  the figures are asked for
        assert slowest < PATIENCE_SECONDS
