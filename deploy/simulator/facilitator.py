"""The x402 facilitator under /facilitator: verify, settle, supported, in v1 and v2.

It checks in the order and with the codes of the official package (2.25.0), signatures included,
against the simulated chain; its weak spots (see `_whole`, `recover`) are the package's too.
"""

import threading
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from flask import Blueprint, Response, g, request

from deploy.simulator.answers import json_answer
from deploy.simulator.chain import Chain
from deploy.simulator.claims import Claim, Malformed, read_claim
from deploy.simulator.clock import Clock
from deploy.simulator.faults import Faults
from deploy.simulator.signing import Authorization, Domain, digest_of, recover
from deploy.simulator.usdc import Revert
from deploy.simulator.wire import JsonObject

ADDRESS = "0xfacfacfacfacfacfacfacfacfacfacfacfacfac0"
OPERATIONS = ("verify", "settle", "supported")
_BUFFER_SECONDS = 6
_UNDEPLOYED_MARK = bytes.fromhex("6492" * 16)
_PREFIX = "invalid_exact_evm_"
_REASONS = {
    "authorization is expired": f"{_PREFIX}payload_authorization_valid_before",
    "authorization is not yet valid": f"{_PREFIX}payload_authorization_valid_after",
    "authorization is used": f"{_PREFIX}nonce_already_used",
    "transfer amount exceeds balance": f"{_PREFIX}insufficient_balance",
    "invalid signature": f"{_PREFIX}payload_signature",
}
_TRANSFER_VRS, _TRANSFER_BYTES = "0xe3ee160e", "0xcf092995"
_CALL_TYPES = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]


class Refused(Exception):
    """The payment is not good; *reason* is the protocol's code."""

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.message = reason, message


@dataclass(frozen=True)
class Settlement:
    """A payment that was sent to the chain."""

    transaction: str
    network: str
    authorization: Authorization


class FacilitatorApi:
    """The routes of the facilitator."""

    def __init__(self, *, chain: Chain, clock: Clock, faults: Faults) -> None:
        self._chain = chain
        self._clock = clock
        self._faults = faults
        self._lock = threading.RLock()
        self._pending: dict[str, str] = {}
        self._settlements: list[Settlement] = []
        self._counts = dict.fromkeys(OPERATIONS, 0)

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("facilitator", __name__, url_prefix="/facilitator")
        self._faults.surround(routes, _operation)
        routes.add_url_rule("/supported", "supported", self.supported, methods=["GET"])
        routes.add_url_rule("/verify", "verify", self.verify, methods=["POST"])
        routes.add_url_rule("/settle", "settle", self.settle, methods=["POST"])
        return routes

    def reset(self) -> None:
        """Forget every settlement and count."""
        with self._lock:
            self._pending.clear()
            self._settlements.clear()
            self._counts = dict.fromkeys(OPERATIONS, 0)

    def counts(self) -> dict[str, int]:
        """Return how often each operation was carried out or refused by itself."""
        with self._lock:
            return dict(self._counts)

    def settlements(self) -> list[Settlement]:
        """Return every payment that was sent to the chain, oldest first."""
        with self._lock:
            return list(self._settlements)

    def supported(self) -> Response:
        """GET /supported: the network in both versions' words."""
        self._count("supported")
        network = self._chain.network
        kinds = [
            {"x402Version": 2, "scheme": "exact", "network": network.caip2},
            {"x402Version": 1, "scheme": "exact", "network": network.name},
        ]
        return json_answer({"kinds": kinds, "extensions": [], "signers": {"eip155:*": [ADDRESS]}})

    def verify(self) -> Response:
        """POST /verify: would this payment settle now?"""
        self._count("verify")
        try:
            claim = read_claim(request.get_data())
        except Malformed as error:
            return json_answer({"isValid": False, "invalidReason": error.code}, 400)
        try:
            _refuse_if("refuse_verify")
            self._check(claim)
            self._simulate(claim)
        except Refused as refused:
            answer: JsonObject = {"isValid": False, "invalidReason": refused.reason}
            if refused.message is not None:
                answer["invalidMessage"] = refused.message
            return json_answer(answer | {"payer": claim.payer})
        except ValueError:
            answer = {"isValid": False, "invalidReason": "unexpected_verify_error"}
            return json_answer(answer, 500)
        return json_answer({"isValid": True, "payer": claim.payer})

    def settle(self) -> Response:
        """POST /settle: check again, then move the money on the chain."""
        self._count("settle")
        try:
            claim = read_claim(request.get_data())
        except Malformed as error:
            answer = {"success": False, "errorReason": error.code, "transaction": "", "network": ""}
            return json_answer(answer, 400)
        try:
            _refuse_if("refuse_settle")
            return self._settled(claim)
        except Refused as refused:
            return json_answer(_failure(claim, refused.reason))
        except ValueError:
            return json_answer(_failure(claim, "unexpected_settle_error"), 500)

    def _settled(self, claim: Claim) -> Response:
        """Settle *claim*, or say what became of it if it was sent before and not waited for."""
        with self._lock:
            transaction = self._pending.get(claim.signature) or self._send(claim)
            found = self._chain.find(transaction)
            if found is None or found.block is None:
                self._pending[claim.signature] = transaction
                return json_answer(_failure(claim, "settlement_pending", transaction))
            self._pending.pop(claim.signature, None)
        if not found.is_success:
            return json_answer(_failure(claim, "transaction_failed", transaction))
        network, payer = claim.network, claim.payer
        answer = {"success": True, "transaction": transaction, "network": network, "payer": payer}
        return json_answer(answer)

    def _send(self, claim: Claim) -> str:
        """Send the transfer to the chain; return the transaction's hash. Raises Refused."""
        self._check(claim)
        if claim.terms["asset"].lower() != self._chain.token.address:
            raise Refused("transaction_failed")
        authorization, signature = _authorization(claim), _for_contract(claim)
        try:
            sent = self._chain.settle(
                authorization,
                signature,
                sender=ADDRESS,
                data=_calldata(authorization, signature),
                wait=g.fault.mode == "settlement_pending",
            )
        except Revert as revert:
            raise _refusal(revert, "transaction_failed") from revert
        self._settlements.append(Settlement(sent.hash, claim.network, authorization))
        return sent.hash

    def _check(self, claim: Claim) -> None:
        """Raise Refused if the payment is not good, as far as can be told without a simulation."""
        terms, network = claim.terms, self._chain.network
        if claim.scheme != "exact" or terms["scheme"] != "exact":
            raise Refused("unsupported_scheme")
        if claim.network != terms["network"]:
            raise Refused("network_mismatch")
        if claim.network != {1: network.name, 2: network.caip2}[claim.version]:
            raise Refused("invalid_network")
        if "name" not in claim.extra or "version" not in claim.extra:
            raise Refused("missing_eip712_domain")
        self._check_content(claim)
        self._check_signature(claim, network.chain_id)
        if self._chain.code_of(terms["asset"].lower()) == "0x":
            raise Refused("asset_not_deployed_contract")

    def _check_content(self, claim: Claim) -> None:
        if claim.authorization.get("to", "").lower() != claim.terms["payTo"].lower():
            raise Refused(f"{_PREFIX}payload_recipient_mismatch")
        if _whole(claim, "value") != int(claim.amount):
            suffix = "_mismatch" if claim.version == 2 else ""
            raise Refused(f"{_PREFIX}payload_authorization_value{suffix}")
        now = self._clock.seconds()
        if _whole(claim, "validBefore") < now + _BUFFER_SECONDS:
            raise Refused(f"{_PREFIX}payload_authorization_valid_before")
        if _whole(claim, "validAfter") > now:
            raise Refused(f"{_PREFIX}payload_authorization_valid_after")

    def _check_signature(self, claim: Claim, chain_id: int) -> None:
        if not claim.signature:
            raise Refused(f"{_PREFIX}payload_signature")
        authorization = _authorization(claim)
        name, version = claim.extra["name"], claim.extra["version"]
        if not (isinstance(name, str) and isinstance(version, str)):
            raise Refused(f"{_PREFIX}failed_to_verify_signature", "the domain is not text")
        digest = digest_of(authorization, Domain(name, version, chain_id, claim.terms["asset"]))
        signature, is_for_later = _unwrapped(_bytes(claim.signature, "signature"))
        payer = authorization.payer.lower()
        if self._chain.code_of(payer) != "0x":
            # A wallet that says no is left to the simulation, which asks the wallet itself.
            return
        if is_for_later:
            raise Refused("eip6492_factory_not_allowed")
        if len(signature) != 65:
            raise Refused(f"{_PREFIX}payload_undeployed_smart_wallet")
        if signature[64] not in (0, 1, 27, 28):
            message = f"Invalid v value: {signature[64]}"
            raise Refused(f"{_PREFIX}failed_to_verify_signature", message)
        if recover(digest, signature) != payer:
            raise Refused(f"{_PREFIX}payload_signature")

    def _simulate(self, claim: Claim) -> None:
        if claim.terms["asset"].lower() != self._chain.token.address:
            raise Refused(f"{_PREFIX}transaction_simulation_failed")
        try:
            self._chain.check_authorization(_authorization(claim), _for_contract(claim))
        except Revert as revert:
            raise _refusal(revert, f"{_PREFIX}transaction_simulation_failed") from revert

    def _count(self, operation: str) -> None:
        with self._lock:
            self._counts[operation] += 1


def _operation() -> set[str]:
    return {(request.endpoint or "").rpartition(".")[2]}


def _refuse_if(mode: str) -> None:
    """Raise Refused if the fault of this call is *mode*, whatever the payment is like."""
    if g.fault.mode == mode:
        raise Refused(g.fault.code)


def _failure(claim: Claim, reason: str, transaction: str = "") -> JsonObject:
    return {
        "success": False,
        "errorReason": reason,
        "transaction": transaction,
        "network": claim.network,
        "payer": claim.payer,
    }


def _refusal(revert: Revert, otherwise: str) -> Refused:
    text = str(revert).lower()
    reason = next((code for words, code in _REASONS.items() if words in text), otherwise)
    return Refused(reason, f"execution reverted: {revert}")


def _whole(claim: Claim, name: str) -> int:
    """Return a number of the authorization. Raises ValueError; as lax as the package's int()."""
    return int(claim.authorization.get(name, ""))


def _authorization(claim: Claim) -> Authorization:
    """Return the authorization in a form that can be hashed. Raises Refused."""
    payer, to, asset = claim.payer, claim.authorization["to"], claim.terms["asset"]
    value, after, before = (_whole(claim, one) for one in ("value", "validAfter", "validBefore"))
    nonce = _bytes(claim.authorization.get("nonce", ""), "nonce")
    if len(nonce) != 32:
        message = f"invalid nonce length: got {len(nonce)} bytes, want 32"
        raise Refused(f"{_PREFIX}failed_to_verify_signature", message)
    if not all(0 <= number < 2**256 for number in (value, after, before)):
        raise Refused(f"{_PREFIX}failed_to_verify_signature", "a number is out of range")
    if not all(len(_bytes(address, "address")) == 20 for address in (payer, to, asset)):
        raise Refused(f"{_PREFIX}failed_to_verify_signature", "invalid address")
    return Authorization(payer, to, value, after, before, nonce)


def _bytes(text: str, name: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise Refused(f"{_PREFIX}failed_to_verify_signature", f"invalid {name}") from error


def _unwrapped(signature: bytes) -> tuple[bytes, bool]:
    """Return (the wallet's own signature, whether it says how to deploy the wallet: ERC-6492)."""
    if not signature.endswith(_UNDEPLOYED_MARK):
        return signature, False
    try:
        _factory, _setup, inner = decode(["address", "bytes", "bytes"], signature[:-32])
    except DecodingError as error:
        raise Refused(f"{_PREFIX}failed_to_verify_signature", str(error)) from error
    return inner, True


def _for_contract(claim: Claim) -> bytes:
    """Return the signature as the token's contract is given it: v is 27 or 28 there."""
    signature, _ = _unwrapped(_bytes(claim.signature, "signature"))
    if len(signature) == 65 and signature[64] in (0, 1):
        return signature[:64] + bytes([signature[64] + 27])
    return signature


def _calldata(authorization: Authorization, signature: bytes) -> str:
    """Return the input of the transaction, as the contract's two forms want it."""
    moved: list[Any] = [
        authorization.payer,
        authorization.to,
        authorization.value,
        authorization.valid_after,
        authorization.valid_before,
        authorization.nonce,
    ]
    if len(signature) != 65:
        return _TRANSFER_BYTES + encode([*_CALL_TYPES, "bytes"], [*moved, signature]).hex()
    parts = [signature[64], signature[:32], signature[32:64]]
    return (
        _TRANSFER_VRS + encode([*_CALL_TYPES, "uint8", "bytes32", "bytes32"], moved + parts).hex()
    )
