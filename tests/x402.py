"""What the x402 tests stand on: payers that sign, the vectors, and a server that misbehaves."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from shared.payments.providers.calls import Limits
from shared.payments.x402.ethereum import Account, encode_defunct, encode_typed_data
from shared.payments.x402.networks import Network, read_networks
from shared.payments.x402.terms import Terms, requirement
from shared.payments.x402.wire import Payment, payment_in

FIXTURES = Path(__file__).parent / "fixtures"
SAMPLES = json.loads((FIXTURES / "x402_v2_exact_evm.json").read_text())
CASES = json.loads((FIXTURES / "x402_verify_cases.json").read_text())
EXCHANGES = json.loads((FIXTURES / "x402_facilitator_http.json").read_text())

KEY, OTHER_KEY = (CASES["meta"][f"{who}_private_key_throwaway"] for who in ("payer", "other"))
PAYER, OTHER = (CASES["meta"][who].lower() for who in ("payer", "other"))
NONCE = CASES["meta"]["fixed_nonce"]
NOW_SECONDS = CASES["meta"]["frozen_time"]
NOW = datetime.fromtimestamp(NOW_SECONDS, UTC)
PAY_TO = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
TRANSACTION = f"0x{'12' * 32}"
IMPATIENT = Limits(connect_seconds=0.5, answer_seconds=0.5, total_seconds=1.0)
DEADLINE_SECONDS = 8.0
S = TypeVar("S", bound="Server")


def network(caip2: str = "eip155:84532", **fields: Any) -> Network:
    """Return a network as the setting gives it."""
    entry = {"network": caip2, "payTo": PAY_TO, "facilitatorUrl": "https://f.test", **fields}
    return read_networks(json.dumps([entry]))[0]


def terms_in(required: dict[str, Any], resource: dict[str, Any]) -> Terms:
    """Return our terms for a requirement of the vectors, which are bound to no quote."""
    return Terms(
        network=required["network"],
        asset=required["asset"],
        pay_to=required["payTo"],
        value=int(required["amount"]),
        max_timeout_seconds=required["maxTimeoutSeconds"],
        name=required["extra"].get("name", ""),
        version=required["extra"].get("version", ""),
        quote_id=None,
        resource=resource["url"],
        description=resource["description"],
        mime_type=resource["mimeType"],
    )


_SAMPLE = SAMPLES["cases"][1]["paymentRequired"]
TERMS = replace(terms_in(_SAMPLE["accepts"][0], _SAMPLE["resource"]), quote_id="quote-1")


def authorization(terms: Terms = TERMS, **fields: Any) -> dict[str, str]:
    """Return an authorization that pays *terms* at NOW."""
    return {
        "from": PAYER,
        "to": terms.pay_to,
        "value": str(terms.value),
        "validAfter": "0",
        "validBefore": str(NOW_SECONDS + terms.max_timeout_seconds),
        "nonce": NONCE,
        **fields,
    }


def signature(signed: dict[str, str], terms: Terms = TERMS, key: str = KEY) -> str:
    """Return the signature of *key* under an authorization in the token of *terms*."""
    message = encode_typed_data(
        domain_data={
            "name": terms.name,
            "version": terms.version,
            "chainId": int(terms.network.removeprefix("eip155:")),
            "verifyingContract": terms.asset,
        },
        message_types=SAMPLES["cases"][0]["eip712"]["types"],
        message_data={
            name: value if value.startswith("0x") else int(value) for name, value in signed.items()
        },
    )
    return f"0x{bytes(Account.sign_message(message, private_key=key).signature).hex()}"


def text_signature(text: str, key: str = KEY) -> str:
    """Return what a wallet's personal_sign makes of *text*."""
    signed = Account.sign_message(encode_defunct(text=text), private_key=key)
    return f"0x{bytes(signed.signature).hex()}"


def payload(terms: Terms = TERMS, *, version: int = 2, **fields: Any) -> dict[str, Any]:
    """Return a signed payload; *fields* replace parts of the authorization before it is signed."""
    signed = authorization(terms, **fields)
    made = {"x402Version": version}
    made["payload"] = {"authorization": signed, "signature": signature(signed, terms)}
    offered = requirement(terms, version=version)
    if version == 1:
        return {**made, "scheme": offered["scheme"], "network": offered["network"]}
    return {**made, "accepted": offered}


def encoded(value: Any) -> str:
    """Return *value* as a header carries it."""
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.b64encode(text.encode()).decode()


def read(value: Any, *, version: int = 2) -> Payment:
    """Return the payment in a header that carries *value*."""
    header = encoded(value)
    v2, v1 = (header, None) if version == 2 else (None, header)
    found = payment_in(payment_signature=v2, x_payment=v1)
    assert found is not None
    return found


class Server(ThreadingHTTPServer):
    """Answers POSTs with the next of *answers*, the last one for ever; keeps what it was asked.

    An answer is (status, body), or a way to misbehave: ``hang``, ``truncated``, ``close``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: list[Any] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.content_types: set[str] = set()
        self.released = threading.Event()

    def next_answer(self, _body: dict[str, Any]) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.server.content_types.add(self.headers["Content-Type"])
        answer = self.server.next_answer(body)
        if answer == "hang":
            self.server.released.wait(DEADLINE_SECONDS)
        elif answer == "truncated":
            self._send(200, b'{"isValid":true,"success":tr', length=400)
        elif answer != "close":
            status, written = answer
            text = written if isinstance(written, str) else json.dumps(written)
            self._send(status, text.encode(), length=len(text.encode()))

    def _send(self, status: int, body: bytes, *, length: int) -> None:
        self.send_response(status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Node(Server):
    """A chain's node: answers each JSON-RPC method with what *results* has for it.

    *faults* has whole answers, as Server knows them, for the methods that are to misbehave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, Any] = {"eth_chainId": "0x14a34", "eth_blockNumber": "0x70"}
        self.faults: dict[str, Any] = {}

    def next_answer(self, body: dict[str, Any]) -> Any:
        method = body["method"]
        if method in self.faults:
            return self.faults[method]
        return 200, {"jsonrpc": "2.0", "id": body["id"], "result": self.results[method]}

    def methods(self) -> list[str]:
        """Return the methods that were asked, in order."""
        return [body["method"] for _, body in self.asked]

    def params_of(self, method: str) -> list[Any]:
        """Return the parameters of the one call of *method*."""
        (params,) = [body["params"] for _, body in self.asked if body["method"] == method]
        return params


@contextmanager
def running_server(kind: type[S] = Server) -> Iterator[S]:
    """Run a Server for the length of a ``with`` block."""
    with kind() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@contextmanager
def nobody_listens() -> Iterator[str]:
    """Give an address where every connection is refused."""
    with running_server() as server:
        url = server.url
    yield url
