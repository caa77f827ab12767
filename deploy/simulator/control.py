"""The developer's API under /sim: move payments, send notices, play scenarios, set faults.

It has no password and needs none: the simulator listens on 127.0.0.1 and its notices stay there.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

from flask import Blueprint, Response, request

from deploy.simulator.answers import json_answer
from deploy.simulator.asking import Misuse, amount, body, flag, seconds, sorry, text, whole_number
from deploy.simulator.faults import Faults
from deploy.simulator.notices import Courier, Delivery
from deploy.simulator.scenarios import SCENARIOS, play
from deploy.simulator.state import STATUSES, Book, UnknownPayment
from deploy.simulator.wire import JsonObject, print_json

_View = Callable[..., Response]
_MOST_TIMES, _MOST_CALLS = 1000, 10**6


class ControlApi:
    """The routes for developers about the provider, and about the faults of every API.

    *faults* are by the path that sets them.
    """

    def __init__(
        self,
        *,
        book: Book,
        courier: Courier,
        faults: Mapping[str, Faults],
        stopping: threading.Event,
    ) -> None:
        self._book = book
        self._courier = courier
        self._faults = faults
        self._stopping = stopping

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("control", __name__, url_prefix="/sim")
        table: list[tuple[str, str, _View]] = [
            ("GET", "/scenarios", self.list_scenarios),
            ("GET", "/payments", self.list_payments),
            ("POST", "/payments/<int:payment_id>/advance", self.advance),
            ("POST", "/payments/<int:payment_id>/notify", self.notify),
            ("POST", "/payments/<int:payment_id>/scenario", self.scenario),
            ("GET", "/deliveries", self.list_deliveries),
        ]
        for path, faults in self._faults.items():
            table.append(("GET", path, partial(self.show_fault, faults)))
            table.append(("POST", path, partial(self.set_fault, faults)))
        for method, rule, view in table:
            name = f"{method} {rule}".replace("/", " ")
            routes.add_url_rule(rule, name, view, methods=[method])
        routes.register_error_handler(Misuse, lambda error: sorry(error, 400))
        routes.register_error_handler(UnknownPayment, lambda error: sorry(error, 404))
        return routes

    def list_scenarios(self) -> Response:
        """GET /scenarios: each name with a sentence."""
        return json_answer({name: scenario.sentence for name, scenario in SCENARIOS.items()})

    def list_payments(self) -> Response:
        """GET /payments?order_id=: the payments as the provider would show them."""
        order_id = request.args.get("order_id")
        found = self._book.read_all(lambda one: order_id in (None, one.order_id))
        return json_answer({"payments": found})

    def advance(self, payment_id: int) -> Response:
        """POST /payments/{id}/advance {status, actually_paid?, outcome_*?, notify?, wait?}."""
        asked = body()
        is_told, wait = flag(asked, "notify", usual=True), flag(asked, "wait", usual=True)
        notice = self._book.advance(
            payment_id,
            _status(asked),
            actually_paid=amount(asked, "actually_paid"),
            outcome_amount=amount(asked, "outcome_amount"),
            outcome_currency=text(asked, "outcome_currency"),
        )
        if not is_told:
            return json_answer({"payment": self._book.read(payment_id), "deliveries": []})
        return self._answer(payment_id, lambda: [self._courier.deliver(notice)], wait=wait)

    def notify(self, payment_id: int) -> Response:
        """POST /payments/{id}/notify {status?, times?, wait?, ...fields to replace}."""
        asked = body()
        status = _status(asked) if "status" in asked else None
        times = whole_number(asked, "times", least=1, most=_MOST_TIMES) or 1
        wait = flag(asked, "wait", usual=True)
        reserved = {"status", "times", "wait"}
        overrides = {name: value for name, value in asked.items() if name not in reserved}
        try:
            print_json(overrides)
        except (ValueError, OverflowError, RecursionError) as error:
            raise Misuse("A field cannot be printed as JavaScript would print it.") from error
        notice = self._book.notice_of(payment_id, status)

        def send() -> list[Delivery]:
            return [self._courier.deliver(notice, overrides) for _ in range(times)]

        return self._answer(payment_id, send, wait=wait)

    def scenario(self, payment_id: int) -> Response:
        """POST /payments/{id}/scenario {name, wait?, pause_seconds?}."""
        asked = body()
        scenario = SCENARIOS.get(str(asked.get("name")))
        if scenario is None:
            raise Misuse(f"name must be one of: {', '.join(SCENARIOS)}.")
        self._book.read(payment_id)
        work = partial(
            play,
            scenario,
            payment_id,
            book=self._book,
            courier=self._courier,
            pause_seconds=seconds(asked, "pause_seconds") or 0.0,
            stopping=self._stopping,
        )
        return self._answer(payment_id, work, wait=flag(asked, "wait", usual=False))

    def list_deliveries(self) -> Response:
        """GET /deliveries?payment_id=: every attempt, oldest first."""
        given = request.args.get("payment_id")
        if given is not None and not (given.isascii() and given.isdecimal() and len(given) <= 20):
            raise Misuse("payment_id must be a number.")
        log = self._courier.log(None if given is None else int(given))
        return json_answer({"deliveries": [asdict(one) for one in log]})

    def show_fault(self, faults: Faults) -> Response:
        """GET …/faults: the fault in force, and every mode with a sentence."""
        modes = {name: mode.sentence for name, mode in faults.modes.items()}
        return json_answer(faults.current().as_json() | {"modes": modes})

    def set_fault(self, faults: Faults) -> Response:
        """POST …/faults {mode, count?, for_seconds?, on?, seconds?, code?}."""
        asked = body()
        mode, on = text(asked, "mode"), text(asked, "on")
        if mode is None or mode not in faults.modes:
            raise Misuse(f"mode must be one of: {', '.join(faults.modes)}.")
        only_on = faults.modes[mode].only_on
        if on is not None and (only_on or on) != on:
            raise Misuse(f"{mode} is for {only_on} only.")
        if on is not None and faults.operations and on not in faults.operations:
            raise Misuse(f"on must be one of: {', '.join(faults.operations)}.")
        fault = faults.set(
            mode,
            seconds=seconds(asked, "seconds"),
            count=whole_number(asked, "count", least=1, most=_MOST_CALLS),
            on=on,
            for_seconds=seconds(asked, "for_seconds"),
            code=text(asked, "code"),
        )
        return json_answer(fault.as_json())

    def _answer(
        self, payment_id: int, work: Callable[[], list[Delivery]], *, wait: bool
    ) -> Response:
        """Do *work* and say what came of it, or (not *wait*) begin it and say so with 202."""
        if not wait:
            # A daemon thread: the end of the process never waits for a slow receiver.
            threading.Thread(target=work, daemon=True).start()
            return json_answer({"payment": self._book.read(payment_id), "started": True}, 202)
        deliveries = [one.summary() for one in work()]
        return json_answer({"payment": self._book.read(payment_id), "deliveries": deliveries})


def _status(asked: JsonObject) -> str:
    status = asked.get("status")
    if status not in STATUSES:
        raise Misuse(f"status must be one of: {', '.join(STATUSES)}.")
    return str(status)
