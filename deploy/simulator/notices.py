"""Sign a notice as the provider does and deliver it, with retries and a log of every attempt.

Notices go to loopback addresses only, without proxies or redirects: whatever a caller asks for,
the simulator cannot send anything to another machine.
"""

import hashlib
import hmac
import re
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import requests

from deploy.simulator.shapes import iso_text
from deploy.simulator.state import Notice
from deploy.simulator.wire import JsonObject, print_json

_LOG_LENGTH = 5000
_KEPT_ANSWER_CHARACTERS = 500
# The host must end at once in a port, a path or a query, so no two URL parsers can disagree on it.
_LOOPBACK_URL = re.compile(
    r"https?://(?:127(?:\.[0-9]{1,3}){3}|localhost|\[::1\])(?::[0-9]{1,5})?(?:[/?][^\s\\]*)?",
    re.ASCII,
)

# A name without a dot is one of the container's own network: nothing public is called so.
_NEIGHBOUR_URL = re.compile(r"http://[a-z][a-z0-9-]{0,62}:[0-9]{1,5}/[^\s\\]*", re.ASCII)


def is_loopback_url(url: str) -> bool:
    """Tell whether *url* is one that notices may be sent to."""
    return _LOOPBACK_URL.fullmatch(url) is not None


def is_receiver_url(url: str) -> bool:
    """Tell whether *url* may be the receiver: on this machine, or a container beside this one."""
    return is_loopback_url(url) or _NEIGHBOUR_URL.fullmatch(url) is not None


def sign(secret: str, text: bytes) -> str:
    """Return the x-nowpayments-sig value of *text*: HMAC-SHA512, hex, lower case."""
    return hmac.new(secret.strip().encode(), text, hashlib.sha512).hexdigest()


@dataclass(frozen=True)
class Delivery:
    """One attempt to deliver one notice; *http_status* is None when no answer came."""

    at: str
    payment_id: int
    status: str
    attempt: int
    url: str | None
    http_status: int | None
    body: str
    sent: str
    signature: str

    @property
    def is_accepted(self) -> bool:
        """Whether the receiver answered 2xx."""
        return self.http_status is not None and 200 <= self.http_status < 300

    def summary(self) -> JsonObject:
        """Return what a caller who waited is told."""
        return {
            "payment_id": self.payment_id,
            "status": self.status,
            "http_status": self.http_status,
            "body": self.body,
            "attempts": self.attempt,
        }


class Courier:
    """Delivers notices to the receiver and remembers the last attempts."""

    def __init__(
        self,
        *,
        secret: str,
        default_url: str | None,
        retries: int,
        retry_seconds: float,
        answer_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._secret = secret
        self._default_url = default_url
        self._attempts = retries + 1
        self._retry_seconds = retry_seconds
        self._answer_seconds = answer_seconds
        self._stopping = stopping
        self._lock = threading.Lock()
        self._log: deque[Delivery] = deque(maxlen=_LOG_LENGTH)

    def deliver(self, notice: Notice, overrides: JsonObject | None = None) -> Delivery:
        """Send *notice* until it is accepted or the tries are used up; return the last attempt."""
        body = notice.body | (overrides or {})
        text = print_json(body, sort_keys=True).encode()
        attempt = 1
        while True:
            delivery = self._attempt(notice, text, attempt)
            with self._lock:
                self._log.append(delivery)
            if delivery.is_accepted or delivery.url is None or attempt == self._attempts:
                return delivery
            attempt += 1
            if self._stopping.wait(self._retry_seconds):
                return delivery

    def log(self, payment_id: int | None) -> Iterable[Delivery]:
        """Return the attempts kept, oldest first, of one payment or (None) of all."""
        with self._lock:
            return [one for one in self._log if payment_id in (None, one.payment_id)]

    def _attempt(self, notice: Notice, text: bytes, attempt: int) -> Delivery:
        url = notice.callback_url or self._default_url
        signature = sign(self._secret, text)
        http_status, answer = None, "no callback address: nothing was sent"
        if url is not None:
            http_status, answer = self._post(url, text, signature)
        return Delivery(
            at=iso_text(datetime.now(UTC)),
            payment_id=notice.payment_id,
            status=notice.status,
            attempt=attempt,
            url=url,
            http_status=http_status,
            body=answer[:_KEPT_ANSWER_CHARACTERS],
            sent=text.decode(),
            signature=signature,
        )

    def _post(self, url: str, text: bytes, signature: str) -> tuple[int | None, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "NOWPayments v1.0",
            "x-nowpayments-sig": signature,
        }
        with requests.Session() as session:
            session.trust_env = False
            try:
                answer = session.post(
                    url,
                    data=text,
                    headers=headers,
                    timeout=self._answer_seconds,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                return None, f"no answer: {type(error).__name__}"
            return answer.status_code, answer.text
