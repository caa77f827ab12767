"""What is broken and when: a schedule that comes from the seed alone, and the hand that does it.

Whatever dies is started again by its supervisor; what is stopped or frozen on purpose is let go
again by a later strike of the same schedule.
"""

import contextlib
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil

from deploy.local.processes import descendants, is_alive
from deploy.local.stack import Stack

WORKERS = ("worker-payments", "worker-payments-b", "worker-ledger", "worker-maintenance")
PARENTS = (*WORKERS, "beat", "api", "webhooks")
FORKING = ("worker-ledger", "api", "webhooks")  # these have children, and are not their children
POSTGRES = ("end a backend of", "kill a backend of", "restart", "kill")
PROVIDER_FAULTS = ("down", "slow", "garbage", "lost_answer", "hang", "rate_limited", "wrong_shape")
_WAIT_SECONDS = 10.0
FACILITATOR_FAULTS = ("down", "slow", "settlement_pending", "lost_answer", "timeout_after_settle")


@dataclass(frozen=True, order=True)
class Strike:
    """One thing to break: when (seconds from the start), how, what, and for how long."""

    at: float
    act: str
    target: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.0f} s" if self.seconds else ""
        return f"{self.act} {self.target}{lasting}".replace("  ", " ")


@dataclass(frozen=True)
class Severity:
    """How hard a run is: the pauses between strikes, and how long things stay away."""

    pause: tuple[float, float]
    redis_away: float
    freeze: tuple[float, float]
    fault: tuple[float, float]


LONG = Severity(pause=(2.0, 6.0), redis_away=30.0, freeze=(62.0, 80.0), fault=(2.0, 12.0))
SHORT = Severity(pause=(0.8, 1.1), redis_away=5.0, freeze=(3.0, 4.0), fault=(1.0, 2.0))


def every_kind(severity: Severity, chance: random.Random, *, is_postgres: bool) -> list[Strike]:
    """Return one strike of each kind, without their times."""
    strikes = [Strike(0, "kill child of", name) for name in FORKING]
    strikes += [Strike(0, "kill", name) for name in PARENTS]
    strikes.append(Strike(0, "freeze", "worker-payments", chance.uniform(*severity.freeze)))
    strikes.append(Strike(0, "empty", "redis"))
    strikes.append(Strike(0, "stop", "redis", severity.redis_away))
    if is_postgres:
        strikes += [Strike(0, act, "postgres") for act in POSTGRES]
    provider, facilitator = chance.choice(PROVIDER_FAULTS), chance.choice(FACILITATOR_FAULTS)
    seconds = chance.uniform(*severity.fault)
    strikes.append(Strike(0, "provider", provider, seconds))
    strikes.append(Strike(0, "facilitator", facilitator, seconds))
    return strikes


def schedule(seed: int, seconds: float, severity: Severity, *, is_postgres: bool) -> list[Strike]:
    """Return the strikes of a run of *seconds*, which the *seed* alone decides.

    Every kind comes once in a fixed order, then one after another by chance.
    """
    chance = random.Random(f"victims {seed}")
    waiting = every_kind(severity, chance, is_postgres=is_postgres)
    found, at = [], 0.5
    while at < seconds:
        if waiting:
            chosen = waiting.pop(0)
        else:
            chosen = chance.choice(every_kind(severity, chance, is_postgres=is_postgres))
        chosen = replace(chosen, at=at, seconds=min(chosen.seconds, max(1.0, seconds - at)))
        if not is_ending(chosen):
            chosen = replace(chosen, seconds=0.0)
        found.append(chosen)
        if chosen.act in ("freeze", "stop"):
            end = {"freeze": "thaw", "stop": "start"}[chosen.act]
            found.append(Strike(at + chosen.seconds, end, chosen.target))
        at += chance.uniform(*severity.pause)
    return sorted(found)


def is_ending(strike: Strike) -> bool:
    """Say whether *strike* is for a time, and ends."""
    return strike.act in ("freeze", "stop", "provider", "facilitator")


class Hand:
    """Breaks things of a running *stack*, and counts what it broke. In the main thread only."""

    def __init__(
        self, stack: Stack, simulate: Callable[[str, dict[str, Any]], object], chance: random.Random
    ) -> None:
        self.stack = stack
        self.broken = Counter[str]()
        self._simulate = simulate
        self._chance = chance
        self._frozen: dict[str, psutil.Process] = {}
        self._stopped: set[str] = set()

    def strike(self, strike: Strike) -> bool:
        """Do it; False if there was nothing to break.

        What is down from an earlier strike is waited for: each kind is to be broken in each run.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (was_there := self._do(strike)) and strike.target not in self._held():
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if was_there and strike.act not in ("thaw", "start"):
            of_fault = strike.act in ("provider", "facilitator")
            self.broken[strike.act if of_fault else f"{strike.act} {strike.target}".strip()] += 1
        return was_there

    def thaw(self) -> None:
        """Let what is frozen go on."""
        for name in [*self._frozen]:
            self._thaw(name)

    def let_go(self) -> None:
        """Start whatever still waits for it, thaw the rest, and end the faults."""
        self.thaw()
        for name in [*self._stopped]:
            self._start(name)
        for path in ("/faults", "/facilitator/faults"):
            self._simulate(path, {"mode": "none"})

    def _do(self, strike: Strike) -> bool:
        acts: dict[str, Callable[[str], bool]] = {
            "kill": lambda name: self._signal(name, signal.SIGKILL),
            "kill child of": self._kill_child,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "empty": self._empty_redis,
            "stop": self._stop,
            "start": self._start,
            "provider": lambda _: self._fault("/faults", strike),
            "facilitator": lambda _: self._fault("/facilitator/faults", strike),
            "restart": lambda name: self._signal(name, self._chance.choice(_RESTARTS)),
            "kill a backend of": lambda _: self._end_backend(signal.SIGKILL),
            "end a backend of": lambda _: self._end_backend(signal.SIGTERM),
        }
        return acts[strike.act](strike.target)

    def _held(self) -> set[str]:
        """Return what is stopped or frozen on purpose: it is not coming back by itself."""
        return {*self._stopped, *self._frozen}

    def _pid(self, name: str) -> int:
        return self.stack.pids().get(name, 0)

    def _signal(self, name: str, number: signal.Signals) -> bool:
        """Signal the process *name* itself, whatever it has started."""
        pid = self._pid(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            if pid:
                psutil.Process(pid).send_signal(number)
                return True
        return False

    def _kill_child(self, name: str) -> bool:
        children = [child for child in descendants(self._pid(name)) if is_alive(child)]
        if not children:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            self._chance.choice(children).kill()
            return True
        return False

    def _freeze(self, name: str) -> bool:
        pid = self._pid(name)
        if not pid or name in self._frozen:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            self._frozen[name] = psutil.Process(pid)
            self._frozen[name].suspend()
            return True
        return False

    def _thaw(self, name: str) -> bool:
        process = self._frozen.pop(name, None)
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None and process.is_running():
                process.resume()
        return True

    def _empty_redis(self, name: str) -> bool:
        """Kill Redis so that it comes back with nothing: its file is gone before it dies."""
        shutil.rmtree(self.stack.directory / name / "appendonlydir", ignore_errors=True)
        return self._signal(name, signal.SIGKILL)

    def _stop(self, name: str) -> bool:
        self._stopped.add(name)
        self.stack.stop_process(name)
        return True

    def _start(self, name: str) -> bool:
        self._stopped.discard(name)
        self.stack.start_process(name)
        return True

    def _fault(self, path: str, strike: Strike) -> bool:
        fault: dict[str, Any] = {"mode": strike.target, "for_seconds": round(strike.seconds, 1)}
        if strike.target in ("slow", "hang", "timeout_after_settle"):
            fault["seconds"] = round(min(strike.seconds, 3.0), 1)
        self._simulate(path, fault)
        return True

    def _end_backend(self, number: signal.Signals) -> bool:
        """Signal a backend that serves one of ours: SIGTERM ends it, SIGKILL restarts them all."""
        backends = [one for one in descendants(self._pid("postgres")) if _serves_us(one)]
        if not backends:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            self._chance.choice(backends).send_signal(number)
            return True
        return False


_RESTARTS = (signal.SIGQUIT, signal.SIGINT)  # immediate, and fast


def _serves_us(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "postgres arrakis" in " ".join(process.cmdline())
    return False
