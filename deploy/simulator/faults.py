"""Make an API misbehave on request: what goes wrong, in which calls, how often or for how long."""

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, g, request

from deploy.simulator.wire import JsonObject, parse, print_json

MOVED = "moved"
"""The query parameter of a redirected call: it is answered right, so that a test sees who came."""


@dataclass(frozen=True)
class Mode:
    """A way to misbehave, in a sentence; *only_on* is the one operation that it makes sense for."""

    sentence: str
    usual_seconds: float = 0.0
    only_on: str | None = None
    usual_code: str | None = None


COMMON_MODES = {
    "none": Mode("every call is answered as it should be"),
    "down": Mode("503 at once; nothing is done"),
    "error": Mode("500 with a JSON body that says nothing; nothing is done"),
    "rate_limited": Mode("429; nothing is done"),
    "html": Mode("502 with a web page, as from a proxy in front; nothing is done"),
    "redirect": Mode("307 to an address that answers right; nothing is done by this call"),
    "hang": Mode("no answer for `seconds` (30), then 504; nothing is done", 30.0),
    "slow": Mode("the right answer, after `seconds` (5)", 5.0),
    "garbage": Mode("the call is carried out, but the answer is 200 with text that is not JSON"),
    "truncated": Mode("the call is carried out, but the answer breaks off half-way"),
    "wrong_types": Mode("the call is carried out, but the answer has values of the wrong types"),
    "wrong_shape": Mode('the call is carried out, but the answer is {"unexpected":1}'),
    "lost_answer": Mode("the call is carried out, then the connection breaks without an answer"),
}
PROVIDER_MODES = COMMON_MODES | {
    "timeout_after_create": Mode(
        "the payment is created, but no answer for `seconds` (30), then 504", 30.0, "create"
    ),
}
FACILITATOR_MODES = COMMON_MODES | {
    "refuse_verify": Mode(
        "verify says no for the reason `code`",
        only_on="verify",
        usual_code="invalid_exact_evm_insufficient_balance",
    ),
    "refuse_settle": Mode(
        "settle says no for the reason `code`; nothing reaches the chain",
        only_on="settle",
        usual_code="transaction_failed",
    ),
    "settlement_pending": Mode(
        "settle sends the transaction but does not wait for it; it is mined by a control call",
        only_on="settle",
    ),
    "timeout_after_settle": Mode(
        "settled on the chain, but no answer for `seconds` (30), then 504", 30.0, "settle"
    ),
}
RPC_MODES = COMMON_MODES | {
    "error_object": Mode("each call of the request gets the JSON-RPC error -32603"),
}
_TOO_MANY = (
    '{"status":false,"statusCode":429,"code":"TOO_MANY_REQUESTS","message":"Too Many Requests"}'
)
_ANSWERS = {
    "down": (503, "text/plain", "Service Unavailable"),
    "error": (500, "application/json", '{"error":"internal"}'),
    "html": (502, "text/html", "<html><body><h1>502 Bad Gateway</h1></body></html>"),
    "rate_limited": (
        429,
        "application/json",
        _TOO_MANY,
    ),
}
_LATE = {"timeout_after_create", "timeout_after_settle"}


@dataclass(frozen=True)
class Fault:
    """A fault in force: *count* is how many calls are left, None for all until it is changed.

    *on* is the operation that it is for, None for every one; *ends_at* is monotonic. *over* is set
    when another fault takes its place: then nothing hangs because of it any longer.
    """

    mode: str
    seconds: float = 0.0
    count: int | None = None
    on: str | None = None
    ends_at: float | None = None
    code: str | None = None
    over: threading.Event = field(default_factory=threading.Event, compare=False)

    def as_json(self) -> JsonObject:
        """Return the fault as the control API shows it."""
        left = None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic())
        return {
            "mode": self.mode,
            "seconds": Decimal(str(self.seconds)),
            "count": self.count,
            "on": self.on,
            "for_seconds": None if left is None else Decimal(f"{left:.3f}"),
            "code": self.code,
        }


NO_FAULT = Fault("none")
_LOOK_SECONDS = 0.05


class Faults:
    """The fault in force now at one API, of the *modes* that make sense there."""

    def __init__(
        self, modes: Mapping[str, Mode], operations: Collection[str], stopping: threading.Event
    ) -> None:
        self.modes = modes
        self.operations = operations
        """What a fault can be limited to; empty if any name will do."""
        self._stopping = stopping
        self._lock = threading.Lock()
        self._fault = NO_FAULT
        self._over = threading.Event()

    def set(
        self,
        mode: str,
        *,
        seconds: float | None = None,
        count: int | None = None,
        on: str | None = None,
        for_seconds: float | None = None,
        code: str | None = None,
    ) -> Fault:
        """Put *mode* in force for *count* calls, for *for_seconds*, or (None) until changed.

        What hangs because of the one before is let go at once.
        """
        chosen = self.modes[mode]
        with self._lock:
            self._over.set()
            self._over = threading.Event()
            self._fault = Fault(
                mode,
                seconds=chosen.usual_seconds if seconds is None else seconds,
                count=count,
                on=chosen.only_on or on,
                ends_at=None if for_seconds is None else time.monotonic() + for_seconds,
                code=code or chosen.usual_code,
                over=self._over,
            )
            return self._fault

    def current(self) -> Fault:
        """Return the fault in force."""
        with self._lock:
            return self._unexpired()

    def take(self, operations: Collection[str]) -> Fault:
        """Return the fault for one call, which does *operations*, using up one of its count."""
        with self._lock:
            fault = self._unexpired()
            if fault.on is not None and fault.on not in operations:
                return NO_FAULT
            if fault.count is not None:
                left = fault.count - 1
                self._fault = replace(fault, count=left) if left else NO_FAULT
            return fault

    def surround(self, routes: Blueprint, operations: Callable[[], Collection[str]]) -> None:
        """Put the fault of the moment around every call of *routes*.

        *operations* names what the present request does.
        """

        def interfere() -> Response | None:
            g.fault = NO_FAULT if MOVED in request.args else self.take(operations())
            return self.answer_instead(g.fault)

        routes.before_request(interfere)
        routes.after_request(lambda response: self.spoil(g.get("fault", NO_FAULT), response))

    def answer_instead(self, fault: Fault) -> Response | None:
        """Return what is answered instead of doing the call, None if the call is to be done."""
        if fault.mode in _ANSWERS:
            http_status, mimetype, text = _ANSWERS[fault.mode]
            return Response(text, http_status, mimetype=mimetype)
        if fault.mode == "redirect":
            return Response("", 307, headers={"Location": f"{request.path}?{MOVED}=1"})
        return self._too_late(fault) if fault.mode == "hang" else None

    def spoil(self, fault: Fault, response: Response) -> Response:
        """Return the answer that is sent in place of the right one, *response*."""
        match fault.mode:
            case "slow":
                self._linger(fault)
            case "garbage":
                response.set_data(b'\x00\x17{"payment_id": ]] upstream connect error')
            case "truncated":
                whole = response.get_data()
                response.set_data(whole[: len(whole) // 2])
                response.headers["Content-Length"] = str(len(whole))
            case "wrong_types" if response.is_json:
                response.set_data(print_json(_of_wrong_types(parse(response.get_data()))))
            case "wrong_shape":
                response.set_data(b'{"unexpected":1}')
            case "lost_answer":
                request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            case late if late in _LATE:
                return self._too_late(fault)
            case _:
                pass
        return response

    def _unexpired(self) -> Fault:
        ends_at = self._fault.ends_at
        if ends_at is not None and time.monotonic() >= ends_at:
            self._fault = NO_FAULT
        return self._fault

    def _linger(self, fault: Fault) -> None:
        """Wait as long as *fault* says, unless it is over or the simulator stops."""
        ends_at = time.monotonic() + fault.seconds
        while (left := ends_at - time.monotonic()) > 0 and not self._stopping.is_set():
            if fault.over.wait(min(left, _LOOK_SECONDS)):
                return

    def _too_late(self, fault: Fault) -> Response:
        self._linger(fault)
        return Response("Gateway Timeout", 504, mimetype="text/plain")


def _of_wrong_types(answer: Any) -> Any:
    """Return *answer* with every value of another type; a JSON-RPC envelope stays as it is."""
    if isinstance(answer, dict):
        if "jsonrpc" not in answer:
            return {name: _of_wrong_types(value) for name, value in answer.items()}
        return {
            name: _of_wrong_types(value) if name == "result" else value
            for name, value in answer.items()
        }
    if isinstance(answer, list):
        is_batch = any(isinstance(item, dict) and "jsonrpc" in item for item in answer)
        return [_of_wrong_types(item) for item in answer] if is_batch else {}
    return _of_another_type(answer)


def _of_another_type(value: Any) -> Any:
    match value:
        case bool():
            # The text "false" is true to a careless reader.
            return "true" if value else "false"
        case str():
            return 7
        case None:
            return []
        case _:
            return str(value)
