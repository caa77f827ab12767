"""The provider's own API under /v1, answered as NOWPayments answers it."""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime

from flask import Blueprint, Response, request

from deploy.simulator.answers import json_answer
from deploy.simulator.faults import Faults
from deploy.simulator.orders import Refusal, bad_request, currency_from, decimal_from, order_from
from deploy.simulator.prices import COINS, FIAT_USD, MINIMUM_USD, coin_amount
from deploy.simulator.shapes import Payment
from deploy.simulator.state import Book, UnknownPayment
from deploy.simulator.wire import JsonObject, parse_object

_View = Callable[..., Response]
OPERATIONS = ("status", "auth", "currencies", "min-amount", "estimate", "create", "list", "read")
_SORT_FIELDS = {
    "created_at",
    "payment_id",
    "payment_status",
    "pay_address",
    "price_amount",
    "price_currency",
    "pay_amount",
    "actually_paid",
    "pay_currency",
    "order_id",
    "order_description",
    "purchase_id",
    "outcome_amount",
    "outcome_currency",
}


class ProviderApi:
    """The routes of the provider; each method is one call of its documentation."""

    def __init__(self, *, book: Book, faults: Faults, api_key: str) -> None:
        self._book = book
        self._faults = faults
        self._api_key = api_key.encode()

    def blueprint(self) -> Blueprint:
        """Return the routes, with the key check before and the faults around each."""
        routes = Blueprint("provider", __name__, url_prefix="/v1")
        table: list[tuple[str, str, str, _View]] = [
            ("status", "GET", "/status", self.status),
            ("auth", "POST", "/auth", self.log_in),
            ("currencies", "GET", "/currencies", self.currencies),
            ("min-amount", "GET", "/min-amount", self.min_amount),
            ("estimate", "GET", "/estimate", self.estimate),
            ("create", "POST", "/payment", self.create),
            ("list", "GET", "/payment", self.list_payments),
            ("list", "GET", "/payment/", self.list_payments),
            ("read", "GET", "/payment/<payment_id>", self.read),
        ]
        for operation, method, rule, view in table:
            routes.add_url_rule(rule, operation, view, methods=[method], strict_slashes=True)
        self._faults.surround(routes, _operation)
        routes.before_request(self._check_key)
        routes.register_error_handler(Refusal, _refuse)
        return routes

    def status(self) -> Response:
        """GET /status: a liveness probe, open to all."""
        return json_answer({"message": "OK"})

    def log_in(self) -> Response:
        """POST /auth: any e-mail address and password get a token."""
        asked = _body()
        if not asked.get("email") or not asked.get("password"):
            raise bad_request("email and password are required")
        return json_answer({"token": self._book.issue_token()})

    def currencies(self) -> Response:
        """GET /currencies: the tickers that can be paid with."""
        return json_answer({"currencies": list(COINS)})

    def min_amount(self) -> Response:
        """GET /min-amount: the least amount, counted in currency_from."""
        source, price = currency_from(request.args, "currency_from")
        target = request.args.get("currency_to", source).lower()
        least = coin_amount(MINIMUM_USD, price)
        answer: JsonObject = {
            "currency_from": source,
            "currency_to": target,
            "min_amount": least,
        }
        if "fiat_equivalent" in request.args:
            fiat, fiat_usd = currency_from(request.args, "fiat_equivalent")
            if fiat not in FIAT_USD:
                raise bad_request("fiat_equivalent must be a fiat currency")
            answer["fiat_equivalent"] = coin_amount(least * price, fiat_usd)
        return json_answer(answer)

    def estimate(self) -> Response:
        """GET /estimate: what an amount of one currency is in another."""
        amount = decimal_from(request.args.get("amount"))
        if not amount:
            raise bad_request("amount must be a positive number")
        source, source_usd = currency_from(request.args, "currency_from")
        target, target_usd = currency_from(request.args, "currency_to")
        return json_answer(
            {
                "currency_from": source,
                "amount_from": amount,
                "currency_to": target,
                "estimated_amount": coin_amount(amount * source_usd, target_usd),
            }
        )

    def create(self) -> Response:
        """POST /payment: a new payment each time; there is no idempotency at the provider."""
        return json_answer(self._book.create(order_from(_body())), 201)

    def read(self, payment_id: str) -> Response:
        """GET /payment/{id}."""
        if not (payment_id.isascii() and payment_id.isdecimal() and len(payment_id) <= 20):
            raise Refusal(400, "INVALID_REQUEST_PARAMS", "Payment id must be a number")
        try:
            return json_answer(self._book.read(int(payment_id)))
        except UnknownPayment as unknown:
            raise Refusal(404, "PAYMENT_NOT_FOUND", "Payment not found") from unknown

    def list_payments(self) -> Response:
        """GET /payment/: pages of payments; the only way to find one whose creation timed out."""
        limit, page = _whole_number("limit", 10, 1, 500), _whole_number("page", 0, 0, 10**9)
        sort_by = request.args.get("sortBy", "created_at")
        order = request.args.get("orderBy", "asc").lower()
        if sort_by not in _SORT_FIELDS or order not in {"asc", "desc"}:
            raise bad_request("sortBy or orderBy is not valid")
        date_from, date_to = _moment("dateFrom"), _moment("dateTo")

        def is_wanted(payment: Payment) -> bool:
            created_at = payment.created_at
            return (
                "invoiceId" not in request.args  # no payment here has an invoice
                and (date_from is None or created_at >= date_from)
                and (date_to is None or created_at <= date_to)
            )

        found = self._book.read_all(is_wanted)
        found.sort(key=lambda one: _sort_key(one, sort_by), reverse=order == "desc")
        return json_answer(
            {
                "data": found[page * limit : (page + 1) * limit],
                "limit": limit,
                "page": page,
                "pagesCount": -(-len(found) // limit),
                "total": len(found),
            }
        )

    def _check_key(self) -> None:
        if request.path == "/v1/status":
            return
        # The provider asks for the token of a listing before it looks at the key (recorded).
        if request.method == "GET" and request.path in {"/v1/payment", "/v1/payment/"}:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme != "Bearer" or not self._book.accepts_token(token):
                message = "Authorization header is empty (Bearer JWTtoken is required)"
                raise Refusal(401, "AUTH_REQUIRED", message)
        key = request.headers.get("x-api-key", "")
        if not hmac.compare_digest(key.encode(), self._api_key):
            raise Refusal(403, "INVALID_API_KEY", "Invalid api key")


def _operation() -> set[str]:
    return {(request.endpoint or "").rpartition(".")[2]}


def _refuse(refusal: Refusal) -> Response:
    return json_answer(refusal.as_json(), refusal.http_status)


def _body() -> JsonObject:
    try:
        return parse_object(request.get_data())
    except (ValueError, RecursionError) as error:
        raise bad_request("The request body is not a JSON object") from error


def _whole_number(name: str, usual: int, least: int, most: int) -> int:
    text = request.args.get(name)
    if text is None:
        return usual
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and least <= int(text) <= most):
        raise bad_request(f"{name} must be a whole number between {least} and {most}")
    return int(text)


def _moment(name: str) -> datetime | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise bad_request(f"{name} must be a date") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sort_key(payment: JsonObject, field: str) -> tuple[bool, bool, object]:
    value = payment[field]
    return (value is not None, isinstance(value, str), value)
