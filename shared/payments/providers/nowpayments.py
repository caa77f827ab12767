"""NOWPayments' REST API, as far as we use it (protocols 1.1 to 1.4).

The provider knows no idempotency key: a creation is sent once, and whoever calls has noted that
before. Reads change nothing and are tried again.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from shared.clock import to_wire
from shared.errors import ArrakisError, Invalid, Unavailable
from shared.money import CoinAmount, usd_text
from shared.payments.providers import nowpayments_shapes as shapes
from shared.payments.providers.calls import USUAL_LIMITS, Call, Caller, Limits
from shared.payments.providers.exchange import Answer
from shared.payments.providers.nowpayments_shapes import (
    CreatedPayment,
    Minimum,
    PaymentPage,
    PaymentReading,
)
from shared.payments.providers.outcomes import OutcomeUnknown, ProviderAway

# One import gives the client, what it returns and what it raises.
__all__ = [
    "CreatedPayment",
    "Minimum",
    "NowPayments",
    "OutcomeUnknown",
    "PaymentPage",
    "PaymentReading",
    "ProviderAway",
]

log = structlog.get_logger()
T = TypeVar("T")

_AWAY_SECONDS, _NOT_CONFIGURED_SECONDS = 30, 60
_OK, _CREATED, _BAD_REQUEST, _SERVER_FAULT = 200, 201, 400, 500
_UNAUTHORIZED, _NOT_FOUND, _REQUEST_TIMEOUT = 401, 404, 408
_NOT_THE_CUSTOMERS = {401, 403, 429}
_JSON = {"Content-Type": "application/json"}

# Rows have about a kilobyte, and an answer may have 256.
PAGE_ROWS_MAX = 200
_SEARCH_ROWS, _SEARCH_PAGES_MAX = 100, 20
# The provider's clock, and a thread of ours that stood still between its note and its call.
_SEARCH_BEFORE, _SEARCH_AFTER = timedelta(minutes=15), timedelta(minutes=45)

# Behaviour 7.1: the coins that are offered; the two stablecoins on any network (usdttrc20).
_COINS = {"btc", "eth", "usdt", "usdc", "ltc", "doge", "matic", "sol"}
_ON_ANY_NETWORK = ("usdt", "usdc")


class NowPayments:
    """A client of one merchant's account; safe to share between threads.

    *email* and *password* are needed for listings only. *clock* counts seconds, for the breaker
    and the life of a login; *sleep* pauses between tries.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: str,
        callback_url: str = "",
        email: str = "",
        password: str = "",
        limits: Limits = USUAL_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api_key = api_key
        self._callback_url = callback_url
        self._caller = Caller(
            provider="nowpayments", url=url, limits=limits, clock=clock, sleep=sleep
        )
        self._login = _Login(self._ask_for_token, email=email, password=password, clock=clock)

    @property
    def has_key(self) -> bool:
        """True if there is a key to ask with."""
        return bool(self._api_key)

    def create_payment(
        self, *, order_id: str, amount_micro: int, pay_currency: str, description: str
    ) -> CreatedPayment:
        """Create a payment of *amount_micro* in USD, once: there is no key, so never blindly again.

        Raises Invalid (``payment_refused``) if the provider says no, ProviderAway if it surely
        did nothing, OutcomeUnknown otherwise.
        """
        others = {
            "price_currency": "usd",
            "pay_currency": pay_currency,
            "order_id": order_id,
            "order_description": description,
        }
        if self._callback_url:
            others["ipn_callback_url"] = self._callback_url
        # They want a number, and no float has all the digits of one of ours.
        body = f'{{"price_amount": {usd_text(amount_micro)}, {json.dumps(others)[1:]}'
        headers = self._key() | _JSON
        answer = self._caller.send(
            Call("create_payment", "/payment", "POST", headers, body=body.encode())
        )
        if answer.status == _CREATED:
            try:
                return shapes.read_created(answer.body, order_id)
            except ValueError as error:
                raise OutcomeUnknown("The provider's answer makes no sense.") from error
        if answer.status in _NOT_THE_CUSTOMERS:
            raise _not_ours(answer)
        is_refusal = _BAD_REQUEST <= answer.status < _SERVER_FAULT
        if is_refusal and answer.status != _REQUEST_TIMEOUT:
            raise _refused(answer, "The provider refused the payment", code="payment_refused")
        raise OutcomeUnknown(f"The provider answered {answer.status}.")

    def read_payment(self, payment_id: str) -> PaymentReading | None:
        """Return the payment as the provider has it now, None if it knows none of this id.

        Raises Invalid (``invalid_payment_id``) for an id that cannot be theirs, ProviderAway.
        """
        if not shapes.is_identifier(payment_id):  # an empty one would ask for the list
            raise Invalid("A payment id has 1 to 20 digits.", code="invalid_payment_id")
        answer = self._caller.read(
            Call("read_payment", f"/payment/{payment_id}", headers=self._key())
        )
        if answer.status == _NOT_FOUND:
            return None
        reading = _understood(answer, shapes.read_payment)
        if reading.payment_id != payment_id:
            raise ProviderAway(
                "The provider answered with another payment.", retry_after_seconds=_AWAY_SECONDS
            )
        return reading

    def list_payments(
        self, *, date_from: datetime, date_to: datetime, limit: int = 100, page: int = 0
    ) -> PaymentPage:
        """Return page *page* (from 0) of the payments created between two instants, oldest first.

        *limit* rows a page, 1 to 200. Needs a login: raises Unavailable
        (``provider_listing_not_configured``) without e-mail and password, or ProviderAway.
        """
        if not 1 <= limit <= PAGE_ROWS_MAX or page < 0:
            raise Invalid(f"A page has 1 to {PAGE_ROWS_MAX} rows, and a number from 0.")
        params = {
            "limit": str(limit),
            "page": str(page),
            "sortBy": "created_at",
            "orderBy": "asc",
            "dateFrom": to_wire(date_from),
            "dateTo": to_wire(date_to),
        }
        token = self._login.token()
        answer = self._list(params, token)
        if answer.status == _UNAUTHORIZED:  # it ran out early
            answer = self._list(params, self._login.token(refused=token))
        return _understood(answer, shapes.read_page)

    def find_by_order_id(
        self, order_id: str, *, created_around: datetime
    ) -> tuple[PaymentReading, ...]:
        """Return the payments made for *order_id* near *created_around*, oldest first.

        Further deposits to an address are left out: they carry the order of the first. None found
        means that none was made by then, more than one that something went wrong. Raises as
        :meth:`list_payments` does, and Unavailable (``provider_listing_too_long``).
        """
        found: list[PaymentReading] = []
        for number in range(_SEARCH_PAGES_MAX):
            page = self.list_payments(
                date_from=created_around - _SEARCH_BEFORE,
                date_to=created_around + _SEARCH_AFTER,
                limit=_SEARCH_ROWS,
                page=number,
            )
            found += [
                one
                for one in page.payments
                if one.order_id == order_id and one.parent_payment_id is None
            ]
            if number + 1 >= page.pages_count:
                return tuple(found)
        raise Unavailable(
            "The provider lists more payments than can be searched.",
            code="provider_listing_too_long",
            retry_after_seconds=_NOT_CONFIGURED_SECONDS,
        )

    def estimate(self, amount: CoinAmount, *, currency_from: str, currency_to: str) -> CoinAmount:
        """Return what *amount* of one currency is in the other, at the present rate.

        Raises Invalid (``provider_refused``), for example for a currency that the provider does
        not know, or ProviderAway.
        """
        params = {
            "amount": f"{amount:f}",
            "currency_from": currency_from,
            "currency_to": currency_to,
        }
        answer = self._caller.read(
            Call("estimate", "/estimate", headers=self._key(), params=params)
        )
        return _understood(answer, shapes.read_estimate, refusal=_question_refused)

    def minimum(self, currency: str) -> Minimum:
        """Return the least amount that can be paid in a coin, in the coin and in USD.

        Raises as :meth:`estimate` does.
        """
        params = {"currency_from": currency, "fiat_equivalent": "usd"}
        answer = self._caller.read(
            Call("minimum", "/min-amount", headers=self._key(), params=params)
        )
        return _understood(answer, shapes.read_minimum, refusal=_question_refused)

    def currencies(self) -> tuple[str, ...]:
        """Return the tickers to pay with: those of ours that the provider takes (behaviour 7.1).

        Raises ProviderAway.
        """
        answer = self._caller.read(Call("currencies", "/currencies", headers=self._key()))
        return tuple(
            ticker
            for ticker in _understood(answer, shapes.read_currencies)
            if ticker in _COINS or ticker.startswith(_ON_ANY_NETWORK)
        )

    def status(self) -> bool:
        """Tell whether the provider says that it is up (behaviour 93); asks once, without a key."""
        try:
            answer = self._caller.once(Call("status", "/status"))
            return answer.status == _OK and shapes.is_healthy(answer.body)
        except (ProviderAway, OutcomeUnknown, ValueError):
            return False

    def _list(self, params: Mapping[str, str], token: str) -> Answer:
        headers = self._key() | {"Authorization": f"Bearer {token}"}
        return self._caller.read(Call("list_payments", "/payment/", headers=headers, params=params))

    def _ask_for_token(self, body: bytes) -> str:
        headers = self._key() | _JSON
        answer = self._caller.read(Call("login", "/auth", "POST", headers, body=body))
        return _understood(answer, shapes.read_token, refusal=_not_logged_in)

    def _key(self) -> dict[str, str]:
        if not self._api_key:
            raise ProviderAway(
                "Crypto payments are not configured: NOWPAYMENTS_API_KEY is not set.",
                code="payments_not_configured",
                retry_after_seconds=_NOT_CONFIGURED_SECONDS,
            )
        return {"x-api-key": self._api_key}


class _Login:
    """The token that listings need: it lives five minutes at the provider and 4.5 here."""

    _LIFE_SECONDS = 270.0

    def __init__(
        self,
        ask: Callable[[bytes], str],
        *,
        email: str,
        password: str,
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._email = email
        self._password = password
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._ends_at = 0.0

    def token(self, *, refused: str | None = None) -> str:
        """Return a token, but not *refused*, which the provider no longer takes."""
        if not self._email or not self._password:
            raise Unavailable(
                "Payments cannot be listed: NOWPAYMENTS_EMAIL and NOWPAYMENTS_PASSWORD are not"
                " set.",
                code="provider_listing_not_configured",
                retry_after_seconds=_NOT_CONFIGURED_SECONDS,
            )
        with self._lock:
            if self._token in ("", refused) or self._clock() >= self._ends_at:
                # Counted from before the asking: the provider counts from somewhere during it.
                began = self._clock()
                words = {"email": self._email, "password": self._password}
                self._token = self._ask(json.dumps(words).encode())
                self._ends_at = began + self._LIFE_SECONDS
            return self._token


def _not_ours(answer: Answer, *, code: str | None = None) -> ProviderAway:
    """Return the error for a refusal that no caller can mend: of our key, our login, our rate."""
    return ProviderAway(
        f"The provider does not take this call from us now ({answer.status}).",
        code=code,
        retry_after_seconds=answer.retry_after_seconds or _AWAY_SECONDS,
    )


def _not_logged_in(answer: Answer) -> ProviderAway:
    return _not_ours(answer, code="provider_login_refused")


def _question_refused(answer: Answer) -> ArrakisError:
    if answer.status in _NOT_THE_CUSTOMERS:
        return _not_ours(answer)
    return _refused(answer, "The provider refused", code="provider_refused")


def _understood(
    answer: Answer,
    read: Callable[[bytes], T],
    *,
    refusal: Callable[[Answer], ArrakisError] = _not_ours,
) -> T:
    """Return what *read* makes of a 2xx. Raises *refusal* of a 4xx, ProviderAway for nonsense."""
    if answer.status >= _BAD_REQUEST:
        raise refusal(answer)
    try:
        return read(answer.body)
    except ValueError as error:
        log.warning("provider_answer_senseless", provider="nowpayments", read=read.__name__)
        raise ProviderAway(
            "The provider's answer makes no sense.", retry_after_seconds=_AWAY_SECONDS
        ) from error


def _refused(answer: Answer, sentence: str, *, code: str) -> Invalid:
    return Invalid(
        f"{sentence}: {shapes.said(answer.body) or f'status {answer.status}'}", code=code
    )
