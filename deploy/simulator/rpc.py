"""POST /rpc: the chain by JSON-RPC 2.0, with the methods that checking a payment needs.

Answers, errors and limits are those of a real node (geth, and Base's public one for the range).
"""

import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak
from flask import Blueprint, Response, g, request

from deploy.simulator.answers import json_answer
from deploy.simulator.chain import FIRST_BLOCK, Block, Chain, Transaction
from deploy.simulator.faults import Faults
from deploy.simulator.networks import DECIMALS, TOKEN_VERSION
from deploy.simulator.wire import JsonObject, parse

_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD, _BAD_PARAMS = -32700, -32600, -32601, -32602
_INTERNAL, _SERVER_ERROR, _REVERTED, _RANGE = -32603, -32000, 3, -32614
_LARGEST_BATCH, _LONGEST_RANGE = 1000, 10_000
_GAS, _GAS_PRICE = "0x15f90", "0x3b9aca00"
_TAGS = {"latest", "pending", "safe", "finalized"}
_QUANTITY = re.compile(r"0x(?:0|[1-9a-fA-F][0-9a-fA-F]*)")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_WORD = re.compile(r"0x[0-9a-fA-F]{64}")
_BYTES = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_MAGIC = bytes.fromhex("1626ba7e")


class RpcError(Exception):
    """The node says no."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data

    def as_json(self) -> JsonObject:
        """Return the error object."""
        error: JsonObject = {"code": self.code, "message": self.message}
        return error if self.data is None else error | {"data": self.data}


def _selector(signature: str) -> bytes:
    return keccak(text=signature)[:4]


class RpcApi:
    """The node's one route and its methods."""

    def __init__(self, *, chain: Chain, faults: Faults) -> None:
        self._chain = chain
        self._faults = faults
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._methods: dict[str, Callable[[list[Any]], Any]] = {
            "eth_chainId": lambda _: hex(chain.network.chain_id),
            "net_version": lambda _: str(chain.network.chain_id),
            "eth_blockNumber": lambda _: hex(chain.head().number),
            "eth_getBlockByNumber": self._get_block,
            "eth_getTransactionByHash": self._get_transaction,
            "eth_getTransactionReceipt": self._get_receipt,
            "eth_getLogs": self._get_logs,
            "eth_getCode": self._get_code,
            "eth_call": self._call,
        }
        self._token_calls: dict[bytes, Callable[[bytes, int], bytes]] = {
            _selector("authorizationState(address,bytes32)"): self._authorization_state,
            _selector("balanceOf(address)"): self._balance_of,
            _selector("name()"): lambda *_: encode(["string"], [chain.network.usdc_name]),
            _selector("version()"): lambda *_: encode(["string"], [TOKEN_VERSION]),
            _selector("decimals()"): lambda *_: encode(["uint8"], [DECIMALS]),
        }

    def blueprint(self) -> Blueprint:
        """Return the route."""
        routes = Blueprint("rpc", __name__)
        self._faults.surround(routes, _methods_asked)
        routes.add_url_rule("/rpc", "rpc", self.answer, methods=["POST"])
        return routes

    def counts(self) -> dict[str, int]:
        """Return how often each method was asked."""
        with self._lock:
            return dict(self._counts)

    def answer(self) -> Response:
        """POST /rpc: one call, or a batch of them."""
        try:
            asked = parse(request.get_data())
        except (ValueError, RecursionError):
            return json_answer(_failed(None, RpcError(_PARSE_ERROR, "parse error")))
        if not isinstance(asked, list):
            one = self._answer_one(asked)
            return Response("", 200) if one is None else json_answer(one)
        if not asked:
            return json_answer(_failed(None, RpcError(_INVALID_REQUEST, "empty batch")))
        if len(asked) > _LARGEST_BATCH:
            return json_answer(_failed(None, RpcError(_INVALID_REQUEST, "batch too large")))
        answers = [one for one in map(self._answer_one, asked) if one is not None]
        return json_answer(answers) if answers else Response("", 200)

    def _answer_one(self, asked: Any) -> JsonObject | None:
        """Return the answer to one call, None to a notification."""
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return _failed(None, RpcError(_INVALID_REQUEST, "invalid request"))
        number, name = asked.get("id"), asked["method"]
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + 1
        if "id" not in asked:
            return None
        try:
            result = self._carry_out(name, asked.get("params", []))
        except RpcError as error:
            return _failed(number, error)
        return {"jsonrpc": "2.0", "id": number, "result": result}

    def _carry_out(self, name: str, params: Any) -> Any:
        if g.fault.mode == "error_object":
            raise RpcError(_INTERNAL, "Internal error")
        if name not in self._methods:
            raise RpcError(_NO_METHOD, f"the method {name} does not exist/is not available")
        if not isinstance(params, list):
            raise RpcError(_BAD_PARAMS, "non-array args")
        return self._methods[name](params)

    def _get_block(self, params: list[Any]) -> JsonObject | None:
        number = self._number(_param(params, 0))
        if not isinstance(_param(params, 1), bool):
            raise RpcError(_BAD_PARAMS, "invalid argument 1: json: cannot unmarshal into bool")
        block = self._chain.block(number)
        if block is None:
            return None
        inside = [one.hash for one in self._chain.transactions() if one.block == block]
        return {
            "number": hex(block.number),
            "hash": block.hash,
            "parentHash": block.parent_hash,
            "timestamp": hex(block.timestamp),
            "transactions": inside,
        }

    def _get_transaction(self, params: list[Any]) -> JsonObject | None:
        found = self._chain.find(_hex(params, 0, _WORD))
        if found is None:
            return None
        return {
            **_place(found.block),
            "transactionIndex": None if found.block is None else hex(found.index),
            "hash": found.hash,
            "from": found.sender,
            "to": found.to,
            "input": found.data,
            "nonce": hex(found.nonce),
            "value": "0x0",
            "gas": _GAS,
            "gasPrice": _GAS_PRICE,
            "type": "0x2",
            "chainId": hex(self._chain.network.chain_id),
        }

    def _get_receipt(self, params: list[Any]) -> JsonObject | None:
        found = self._chain.find(_hex(params, 0, _WORD))
        if found is None or found.block is None:
            return None
        return {
            **_place(found.block),
            "transactionHash": found.hash,
            "transactionIndex": hex(found.index),
            "from": found.sender,
            "to": found.to,
            "contractAddress": None,
            "cumulativeGasUsed": _GAS,
            "gasUsed": _GAS,
            "effectiveGasPrice": _GAS_PRICE,
            "logs": _logs_of(found),
            "logsBloom": f"0x{'00' * 256}",
            "status": "0x1" if found.is_success else "0x0",
            "type": "0x2",
        }

    def _get_logs(self, params: list[Any]) -> list[JsonObject]:
        wanted = _param(params, 0)
        if not isinstance(wanted, dict):
            raise RpcError(_BAD_PARAMS, "invalid argument 0: json: cannot unmarshal into filter")
        first = self._number(wanted.get("fromBlock", "latest"))
        last = self._number(wanted.get("toBlock", "latest"))
        if first > last:
            raise RpcError(_BAD_PARAMS, "invalid block range params")
        if last - first >= _LONGEST_RANGE:
            raise RpcError(_RANGE, "eth_getLogs is limited to a 10,000 range")
        addresses = _alternatives(wanted.get("address"))
        topics = wanted.get("topics", [])
        if not isinstance(topics, list) or len(topics) > 4:
            raise RpcError(_BAD_PARAMS, "invalid topics")
        choices = [_alternatives(one) for one in topics]
        mined = [
            (one.block.number, one.index, one)
            for one in self._chain.transactions()
            if one.block is not None and first <= one.block.number <= last
        ]
        return [
            log
            for _, _, one in sorted(mined, key=lambda place: place[:2])
            for log in _logs_of(one)
            if _is_chosen(log["address"], addresses) and _has_topics(log["topics"], choices)
        ]

    def _get_code(self, params: list[Any]) -> str:
        self._number(params[1] if len(params) > 1 else "latest")
        return self._chain.code_of(_hex(params, 0, _ADDRESS))

    def _call(self, params: list[Any]) -> str:
        asked = _param(params, 0)
        if not isinstance(asked, dict):
            raise RpcError(_BAD_PARAMS, "invalid argument 0: json: cannot unmarshal into call")
        number = self._number(params[1] if len(params) > 1 else "latest")
        if number > self._chain.head().number or number < FIRST_BLOCK:
            raise RpcError(_SERVER_ERROR, "header not found")
        to = _text(asked.get("to"), _ADDRESS, "to").lower()
        data = bytes.fromhex(_text(asked.get("input", asked.get("data")), _BYTES, "input")[2:])
        if self._chain.code_of(to) == "0x":
            return "0x"
        carry_out = self._token_calls.get(data[:4]) if to == self._chain.token.address else None
        if carry_out is None and data[:4] == _MAGIC:
            carry_out = partial(self._is_valid_signature, to)
        if carry_out is None:
            raise RpcError(_REVERTED, "execution reverted", "0x")
        try:
            return f"0x{carry_out(data[4:], number).hex()}"
        except DecodingError as error:
            raise RpcError(_REVERTED, "execution reverted", "0x") from error

    def _authorization_state(self, data: bytes, number: int) -> bytes:
        payer, nonce = decode(["address", "bytes32"], data)
        used_at = self._chain.authorization_used_at(payer.lower(), nonce)
        return encode(["bool"], [used_at is not None and used_at <= number])

    def _balance_of(self, data: bytes, number: int) -> bytes:
        (owner,) = decode(["address"], data)
        if number != self._chain.head().number:
            # Balances of the past are not kept: nor are they by an ordinary (pruned) node.
            raise RpcError(_SERVER_ERROR, "missing trie node")
        return encode(["uint256"], [self._chain.balance_of(owner.lower())])

    def _is_valid_signature(self, wallet: str, data: bytes, _number: int) -> bytes:
        digest, signature = decode(["bytes32", "bytes"], data)
        is_valid = self._chain.wallet_accepts(wallet, digest, signature)
        if is_valid is None:
            raise RpcError(_REVERTED, "execution reverted", "0x")
        return encode(["bytes4"], [_MAGIC if is_valid else b"\xff\xff\xff\xff"])

    def _number(self, tag: Any) -> int:
        """Return the block number that *tag* (a name or a quantity) means."""
        if isinstance(tag, str) and tag in _TAGS:
            return self._chain.head().number
        return 0 if tag == "earliest" else int(_text(tag, _QUANTITY, "block number"), 16)


def _methods_asked() -> set[str]:
    try:
        asked = parse(request.get_data())
    except (ValueError, RecursionError):
        return set()
    calls = asked if isinstance(asked, list) else [asked]
    return {str(one.get("method")) for one in calls if isinstance(one, dict)}


def _failed(number: Any, error: RpcError) -> JsonObject:
    return {"jsonrpc": "2.0", "id": number, "error": error.as_json()}


def _param(params: list[Any], index: int) -> Any:
    if len(params) <= index:
        raise RpcError(_BAD_PARAMS, f"missing value for required argument {index}")
    return params[index]


def _hex(params: list[Any], index: int, form: re.Pattern[str]) -> str:
    return _text(_param(params, index), form, f"argument {index}").lower()


def _text(value: Any, form: re.Pattern[str], name: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise RpcError(_BAD_PARAMS, f"invalid {name}: not the hex string that is wanted")
    return value


def _place(block: Block | None) -> JsonObject:
    if block is None:
        return {"blockHash": None, "blockNumber": None}
    return {"blockHash": block.hash, "blockNumber": hex(block.number)}


def _logs_of(found: Transaction) -> list[JsonObject]:
    return [
        {
            "address": log.address,
            "topics": list(log.topics),
            "data": log.data,
            **_place(found.block),
            "transactionHash": found.hash,
            "transactionIndex": hex(found.index),
            "logIndex": hex(found.first_log + offset),
            "removed": False,
        }
        for offset, log in enumerate(found.logs)
    ]


def _alternatives(value: Any) -> set[str] | None:
    """Return the values (lower case) of which one is wanted, None if any will do."""
    if value is None or value == []:
        return None
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and _BYTES.fullmatch(one) for one in values):
        raise RpcError(_BAD_PARAMS, "invalid filter: not the hex strings that are wanted")
    return {one.lower() for one in values}


def _is_chosen(value: str, choices: set[str] | None) -> bool:
    return choices is None or value in choices


def _has_topics(topics: list[str], choices: list[set[str] | None]) -> bool:
    if len(topics) < len(choices):
        return False
    return all(_is_chosen(topic, chosen) for topic, chosen in zip(topics, choices, strict=False))
