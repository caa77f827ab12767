"""Calls to a provider: bounded in time and number, counted, logged, and cut off while it is down.

What may be done twice is tried three times; what must not, once, and again only if no connection
was made at all.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_random_exponential

from shared import tracing
from shared.observability import PROVIDER_CALLS, PROVIDER_SECONDS
from shared.payments.providers.breaker import Breaker
from shared.payments.providers.exchange import Answer, NeverSent, NoWholeAnswer, exchange
from shared.payments.providers.outcomes import (
    AllSlotsBusy,
    CircuitOpen,
    NotReached,
    OutcomeUnknown,
    ProviderAway,
)

log = structlog.get_logger()
_READ_ATTEMPTS, _SEND_ATTEMPTS = 3, 2
_ASKED_PAUSE_MAX_SECONDS = 5
_AWAY_SECONDS, _BUSY_SECONDS = 30, 10
_TOO_MANY = 429
_backoff = wait_random_exponential(multiplier=0.25, max=2.0)


@dataclass(frozen=True)
class Limits:
    """How long a call may take, in seconds, and how many may be on their way at once."""

    connect_seconds: float = 3.05
    answer_seconds: float = 8.0
    total_seconds: float = 15.0  # all tries of a read together
    calls_at_once: int = 4


USUAL_LIMITS = Limits()


@dataclass(frozen=True)
class Call:
    """One request; *name* is what logs and metrics know of it, so it carries nobody's data."""

    name: str
    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] | None = None
    body: bytes | None = field(default=None, repr=False)


class Caller:
    """Makes calls to one provider at *url*; safe to share between threads.

    *clock* counts seconds for the breaker, *sleep* pauses between tries.
    """

    def __init__(
        self,
        *,
        provider: str,
        url: str,
        limits: Limits = USUAL_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._provider = provider
        self._url = url.rstrip("/")
        self._limits = limits
        self._sleep = sleep
        self._breaker = Breaker(clock)
        # A provider that is slow may hold a few of our threads, never all of them.
        self._slots = threading.BoundedSemaphore(limits.calls_at_once)

    def once(self, call: Call, *, seconds: float = math.inf) -> Answer:
        """Make *call* once, in *seconds* at most; return the answer, whatever its status.

        Raises ProviderAway if it was surely not sent (NotReached, CircuitOpen, AllSlotsBusy), and
        OutcomeUnknown if it may have been and no whole answer came.
        """
        began = time.perf_counter()
        outcome, status = "error", None
        try:
            with tracing.span(
                f"{self._provider} {call.name}", kind="client", provider=self._provider
            ) as span:
                answer = self._guarded(call, seconds)
                span.note(**{"http.response.status_code": answer.status})
        except (ProviderAway, OutcomeUnknown) as error:
            outcome = _OUTCOMES[type(error)]
            raise
        else:
            outcome, status = _outcome_of(answer.status), answer.status
            return answer
        finally:
            self._tell(call.name, outcome, status, time.perf_counter() - began)

    def send(self, call: Call) -> Answer:
        """Make a call that must not be done twice: again only if no connection was made.

        Raises as :meth:`once` does.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(NotReached),
            stop=stop_after_attempt(_SEND_ATTEMPTS),
            wait=_backoff,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self.once, call)

    def read(self, call: Call) -> Answer:
        """Make a call that changes nothing, three times at most: 2xx or 4xx is what it returns.

        It is tried again, after a pause with full jitter, if no whole answer came, or 5xx or 429;
        a Retry-After of up to five seconds is honoured, a longer one is the caller's to wait for.
        Raises ProviderAway.
        """
        ends_at = time.monotonic() + self._limits.total_seconds

        def attempt() -> Answer:
            return _usable(self.once(call, seconds=ends_at - time.monotonic()))

        retrying = Retrying(
            retry=retry_if_exception_type((NotReached, OutcomeUnknown, _AskedToWait)),
            stop=stop_after_attempt(_READ_ATTEMPTS) | stop_before_delay(self._limits.total_seconds),
            wait=_pause_seconds,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except OutcomeUnknown as error:
            raise ProviderAway(error.message, retry_after_seconds=_AWAY_SECONDS) from error

    def _guarded(self, call: Call, seconds: float) -> Answer:
        pause = self._breaker.seconds_to_wait()
        if pause:
            raise CircuitOpen(
                "The payment provider is down; try again later.",
                retry_after_seconds=math.ceil(pause),
            )
        if not self._slots.acquire(timeout=min(self._limits.connect_seconds, max(seconds, 0))):
            raise AllSlotsBusy(
                "The payment provider is slow; try again.", retry_after_seconds=_BUSY_SECONDS
            )
        is_healthy = False
        try:
            answer = self._exchange(call, seconds)
            is_healthy = _is_usable_status(answer.status)
            return answer
        finally:
            self._slots.release()
            self._note(is_healthy=is_healthy)

    def _exchange(self, call: Call, seconds: float) -> Answer:
        least = 0.001  # of a time-out that is used up; zero would mean none
        try:
            return exchange(
                call.method,
                self._url + call.path,
                headers=call.headers,
                params=call.params,
                body=call.body,
                connect_seconds=max(least, min(self._limits.connect_seconds, seconds)),
                answer_seconds=max(least, min(self._limits.answer_seconds, seconds)),
            )
        except NeverSent as error:
            raise NotReached(
                "The payment provider cannot be reached.", retry_after_seconds=_AWAY_SECONDS
            ) from error
        except NoWholeAnswer as error:
            raise OutcomeUnknown("The provider did not answer in time, or broke off.") from error

    def _note(self, *, is_healthy: bool) -> None:
        if is_healthy:
            if self._breaker.succeeded():
                log.info("provider_circuit_closed", provider=self._provider)
        elif self._breaker.failed():
            log.warning("provider_circuit_opened", provider=self._provider)

    def _tell(self, name: str, outcome: str, status: int | None, seconds: float) -> None:
        PROVIDER_CALLS.labels(self._provider, name, outcome).inc()
        PROVIDER_SECONDS.labels(self._provider, name).observe(seconds)
        tell = log.info if outcome == "ok" else log.warning
        tell(
            "provider_called",
            provider=self._provider,
            call=name,
            outcome=outcome,
            status=status,
            ms=round(seconds * 1000, 2),
        )


class _AskedToWait(ProviderAway):
    """The provider is overloaded or has a fault, and may say for how long."""

    def __init__(self, message: str, *, pause_seconds: int) -> None:
        super().__init__(message, retry_after_seconds=pause_seconds or _AWAY_SECONDS)
        self.pause_seconds = pause_seconds


_OUTCOMES: dict[type[Exception], str] = {
    NotReached: "not_reached",
    CircuitOpen: "circuit_open",
    AllSlotsBusy: "busy",
    OutcomeUnknown: "no_answer",
}


def _outcome_of(status: int) -> str:
    if status == _TOO_MANY:
        return "throttled"
    return {2: "ok", 4: "refused"}.get(status // 100, "failed")


def _is_usable_status(status: int) -> bool:
    return status // 100 in (2, 4)


def _usable(answer: Answer) -> Answer:
    """Return an answer that says something. Raises ProviderAway for 429 and all but 2xx and 4xx."""
    if answer.status != _TOO_MANY and _is_usable_status(answer.status):
        return answer
    message = f"The provider answered {answer.status}."
    asked = answer.retry_after_seconds or 0
    if answer.status // 100 == 3 or asked > _ASKED_PAUSE_MAX_SECONDS:  # noqa: PLR2004  a redirect is followed by nobody
        raise ProviderAway(message, retry_after_seconds=asked or _AWAY_SECONDS)
    raise _AskedToWait(message, pause_seconds=asked)


def _pause_seconds(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.pause_seconds if isinstance(error, _AskedToWait) else 0
    return max(float(asked), _backoff(state))
