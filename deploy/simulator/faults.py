"""Make the provider API misbehave on request: what goes wrong, for how long, for how many calls."""

import threading
from dataclasses import dataclass, replace
from decimal import Decimal

from flask import Response

from deploy.simulator.wire import JsonObject

MODES = {
    "none": "every call is answered as it should be",
    "down": "503 at once; nothing is done",
    "html": "502 with a web page, as from a proxy in front; nothing is done",
    "hang": "no answer for `seconds` (30), then 504; nothing is done",
    "slow": "the right answer, after `seconds` (5)",
    "garbage": "the call is carried out, but the answer is 200 with text that is not JSON",
    "truncated": "the call is carried out, but the answer breaks off half-way",
    "timeout_after_create": "the payment is created, but no answer for `seconds` (30), then 504",
}
_NOTHING_DONE = {"down", "html", "hang"}
_USUAL_SECONDS = {"hang": 30.0, "slow": 5.0, "timeout_after_create": 30.0}


@dataclass(frozen=True)
class Fault:
    """A way to misbehave; *count* is how many calls are left, None for all until it is changed."""

    mode: str
    seconds: float
    count: int | None

    def as_json(self) -> JsonObject:
        """Return the fault as the control API shows it."""
        seconds = Decimal(str(self.seconds))
        return {"mode": self.mode, "seconds": seconds, "count": self.count}


NO_FAULT = Fault("none", 0.0, None)


class Faults:
    """The fault in force now."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._lock = threading.Lock()
        self._fault = NO_FAULT

    def set(self, mode: str, *, seconds: float | None, count: int | None) -> Fault:
        """Put *mode* in force for *count* calls (None: until changed)."""
        usual = _USUAL_SECONDS.get(mode, 0.0)
        with self._lock:
            self._fault = Fault(mode, usual if seconds is None else seconds, count)
            return self._fault

    def current(self) -> Fault:
        """Return the fault in force."""
        with self._lock:
            return self._fault

    def take(self, *, is_create: bool) -> Fault:
        """Return the fault for one call, using up one of its count."""
        with self._lock:
            fault = self._fault
            if fault.mode == "timeout_after_create" and not is_create:
                return NO_FAULT
            if fault.count is not None:
                left = fault.count - 1
                self._fault = replace(fault, count=left) if left else NO_FAULT
            return fault

    def answer_instead(self, fault: Fault) -> Response | None:
        """Return what is answered instead of doing the call, None if the call is to be done."""
        if fault.mode not in _NOTHING_DONE:
            return None
        if fault.mode == "down":
            return Response("Service Unavailable", 503, mimetype="text/plain")
        if fault.mode == "html":
            return Response("<html><body><h1>502 Bad Gateway</h1></body></html>", 502)
        return self._too_late(fault)

    def spoil(self, fault: Fault, response: Response) -> Response:
        """Return the answer that is sent in place of the right one, *response*."""
        match fault.mode:
            case "slow":
                self._stopping.wait(fault.seconds)
            case "garbage":
                response.set_data(b'\x00\x17{"payment_id": ]] upstream connect error')
            case "truncated":
                whole = response.get_data()
                response.set_data(whole[: len(whole) // 2])
                response.headers["Content-Length"] = str(len(whole))
            case "timeout_after_create":
                return self._too_late(fault)
            case _:
                pass
        return response

    def _too_late(self, fault: Fault) -> Response:
        self._stopping.wait(fault.seconds)
        return Response("Gateway Timeout", 504, mimetype="text/plain")
