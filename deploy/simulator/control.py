"""The developer's API under /sim: move payments, send notices, play scenarios, set faults.

It has no password and needs none: the simulator listens on 127.0.0.1 and its notices stay there.
"""

import threading
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal
from functools import partial

from flask import Blueprint, Response, request

from deploy.simulator.faults import MODES, Faults
from deploy.simulator.notices import Courier, Delivery
from deploy.simulator.orders import decimal_from
from deploy.simulator.scenarios import SCENARIOS, play
from deploy.simulator.server import json_answer
from deploy.simulator.state import STATUSES, Book, UnknownPayment
from deploy.simulator.wire import JsonObject, parse_object, print_json

_View = Callable[..., Response]
_MOST_TIMES = 1000
_LONGEST_SECONDS = 600


class Misuse(Exception):
    """The developer's call makes no sense; the message says why."""


class ControlApi:
    """The routes for developers."""

    def __init__(
        self, *, book: Book, courier: Courier, faults: Faults, stopping: threading.Event
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
            ("GET", "/faults", self.show_fault),
            ("POST", "/faults", self.set_fault),
        ]
        for method, rule, view in table:
            name = f"{method} {rule}".replace("/", " ")
            routes.add_url_rule(rule, name, view, methods=[method])
        routes.register_error_handler(Misuse, lambda error: _sorry(error, 400))
        routes.register_error_handler(UnknownPayment, lambda error: _sorry(error, 404))
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
        """POST /payments/{id}/advance {status, actually_paid?, outcome_amount?, notify?, wait?}."""
        asked = _body()
        is_told, wait = _flag(asked, "notify", usual=True), _flag(asked, "wait", usual=True)
        notice = self._book.advance(
            payment_id,
            _status(asked),
            actually_paid=_amount(asked, "actually_paid"),
            outcome_amount=_amount(asked, "outcome_amount"),
        )
        if not is_told:
            return json_answer({"payment": self._book.read(payment_id), "deliveries": []})
        return self._answer(payment_id, lambda: [self._courier.deliver(notice)], wait=wait)

    def notify(self, payment_id: int) -> Response:
        """POST /payments/{id}/notify {status?, times?, wait?, ...fields to replace}."""
        asked = _body()
        status = _status(asked) if "status" in asked else None
        times = _whole_number(asked, "times", least=1, most=_MOST_TIMES) or 1
        wait = _flag(asked, "wait", usual=True)
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
        asked = _body()
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
            pause_seconds=_seconds(asked, "pause_seconds") or 0.0,
            stopping=self._stopping,
        )
        return self._answer(payment_id, work, wait=_flag(asked, "wait", usual=False))

    def list_deliveries(self) -> Response:
        """GET /deliveries?payment_id=: every attempt, oldest first."""
        text = request.args.get("payment_id")
        if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= 20):
            raise Misuse("payment_id must be a number.")
        log = self._courier.log(None if text is None else int(text))
        return json_answer({"deliveries": [asdict(one) for one in log]})

    def show_fault(self) -> Response:
        """GET /faults: the fault in force, and every mode with a sentence."""
        return json_answer(self._faults.current().as_json() | {"modes": MODES})

    def set_fault(self) -> Response:
        """POST /faults {mode, seconds?, count?}."""
        asked = _body()
        mode = asked.get("mode")
        if mode not in MODES:
            raise Misuse(f"mode must be one of: {', '.join(MODES)}.")
        seconds = _seconds(asked, "seconds")
        count = _whole_number(asked, "count", least=1, most=10**6)
        return json_answer(self._faults.set(mode, seconds=seconds, count=count).as_json())

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


def _sorry(error: Exception, http_status: int) -> Response:
    return json_answer({"error": str(error)}, http_status)


def _body() -> JsonObject:
    text = request.get_data()
    try:
        return parse_object(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise Misuse("The body must be a JSON object.") from error


def _status(asked: JsonObject) -> str:
    status = asked.get("status")
    if status not in STATUSES:
        raise Misuse(f"status must be one of: {', '.join(STATUSES)}.")
    return str(status)


def _amount(asked: JsonObject, name: str) -> Decimal | None:
    value = asked.get(name)
    amount = decimal_from(value)
    if value is not None and amount is None:
        raise Misuse(f'{name} must be an amount, such as 0.5 or "0.5".')
    return amount


def _seconds(asked: JsonObject, name: str) -> float | None:
    seconds = _amount(asked, name)
    if seconds is not None and seconds > _LONGEST_SECONDS:
        raise Misuse(f"{name} must be at most {_LONGEST_SECONDS}.")
    return None if seconds is None else float(seconds)


def _whole_number(asked: JsonObject, name: str, *, least: int, most: int) -> int | None:
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Misuse(f"{name} must be a whole number between {least} and {most}.")
    return value


def _flag(asked: JsonObject, name: str, *, usual: bool) -> bool:
    value = asked.get(name, usual)
    if not isinstance(value, bool):
        raise Misuse(f"{name} must be true or false.")
    return value
