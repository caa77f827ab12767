"""NOWPayments' REST API, as far as we use it (protocols 1.1 to 1.4).

Ids and amounts may come as text or numbers; amounts are exact decimals, never floats.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests

from shared.errors import Invalid, Unavailable
from shared.money import CoinAmount, parse_coin, usd_text

_CONNECT_SECONDS, _READ_SECONDS = 3.05, 8.0
_CALLS_AT_ONCE = 4
_TEXT_MAX = 255
_NOT_THE_CUSTOMERS = {401, 403, 429}
_BAD_REQUEST, _SERVER_FAULT, _CREATED = 400, 500, 201


class OutcomeUnknown(Unavailable):
    """The provider may or may not have done it: never success, never failure."""

    code = "payment_outcome_unknown"


class ProviderAway(Unavailable):
    """The provider has surely done nothing, and may do it later."""

    code = "provider_unavailable"


@dataclass(frozen=True)
class CreatedPayment:
    """What the provider answers to a new payment."""

    provider_payment_id: str
    status: str
    pay_address: str
    pay_amount: CoinAmount
    pay_currency: str
    expires_at: datetime | None
    raw: str


class NowPayments:
    """A client of one merchant's account; safe to share between threads."""

    def __init__(self, *, url: str, api_key: str, callback_url: str = "") -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._callback_url = callback_url
        # A provider that is slow may hold a few of our threads, never all of them.
        self._slots = threading.BoundedSemaphore(_CALLS_AT_ONCE)

    def create_payment(
        self, *, order_id: str, amount_micro: int, pay_currency: str, description: str
    ) -> CreatedPayment:
        """Create a payment of *amount_micro* in USD, once: there is no key, so never blindly again.

        Raises Invalid (``payment_refused``) if the provider says no, ProviderAway if it surely
        did nothing, OutcomeUnknown otherwise.
        """
        if not self._api_key:
            raise ProviderAway(
                "Crypto payments are not configured: NOWPAYMENTS_API_KEY is not set.",
                code="payments_not_configured",
                retry_after_seconds=60,
            )
        body: dict[str, Any] = {
            # A JSON number is what they want; usd_text has at most six decimals, so float is exact
            # enough to print the same digits again.
            "price_amount": float(usd_text(amount_micro)),
            "price_currency": "usd",
            "pay_currency": pay_currency,
            "order_id": order_id,
            "order_description": description,
        }
        if self._callback_url:
            body["ipn_callback_url"] = self._callback_url
        answer = self._post("/payment", body)
        if answer.status_code == _CREATED:
            return _read_created(answer)
        if answer.status_code in _NOT_THE_CUSTOMERS:
            raise ProviderAway(
                f"The provider does not take payments from us now ({answer.status_code}).",
                retry_after_seconds=30,
            )
        if _BAD_REQUEST <= answer.status_code < _SERVER_FAULT:
            said = _error_of(answer)
            raise Invalid(f"The provider refused the payment: {said}", code="payment_refused")
        raise OutcomeUnknown(f"The provider answered {answer.status_code}.")

    def _post(self, path: str, body: Mapping[str, Any]) -> requests.Response:
        if not self._slots.acquire(timeout=_CONNECT_SECONDS):
            raise ProviderAway("The payment provider is slow; try again.", retry_after_seconds=10)
        try:
            return requests.post(
                self._url + path,
                json=body,
                headers={"x-api-key": self._api_key},
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                allow_redirects=False,
            )
        except requests.ConnectTimeout as error:
            raise _not_reached() from error
        except requests.ConnectionError as error:
            # A refused connection did nothing; a broken one may have.
            if any(word in repr(error) for word in ("NewConnection", "NameResolution")):
                raise _not_reached() from error
            raise OutcomeUnknown("The provider broke the connection off.") from error
        except requests.RequestException as error:
            raise OutcomeUnknown("The provider did not answer in time.") from error
        finally:
            self._slots.release()


def _not_reached() -> Unavailable:
    return ProviderAway("The payment provider cannot be reached.", retry_after_seconds=30)


def _read_created(answer: requests.Response) -> CreatedPayment:
    try:
        fields = json.loads(answer.text, parse_float=str, parse_int=str)
        return CreatedPayment(
            provider_payment_id=_identifier(fields["payment_id"]),
            status=str(fields["payment_status"]),
            pay_address=_printable(fields["pay_address"]),
            pay_amount=parse_coin(fields["pay_amount"]),
            pay_currency=_printable(fields["pay_currency"]).lower(),
            expires_at=_moment(fields.get("expiration_estimate_date")),
            raw=answer.text,
        )
    except (ValueError, KeyError, TypeError, RecursionError, Invalid) as error:
        raise OutcomeUnknown("The provider's answer makes no sense.") from error


def _identifier(value: Any) -> str:
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 20:  # noqa: PLR2004  protocols 1.4
        raise ValueError("a payment id has 1 to 20 digits")
    return text


def _printable(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _TEXT_MAX:
        raise ValueError("not a text that can be shown")
    return value


def _moment(value: Any) -> datetime | None:
    # It is only told to people, so an odd one must not cost the payment.
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _error_of(answer: requests.Response) -> str:
    try:
        fields = answer.json()
        said = str(fields.get("message") or fields.get("code"))
        return "".join(letter for letter in said if letter.isprintable())[:200]
    except (ValueError, AttributeError, RecursionError):
        return f"status {answer.status_code}"
