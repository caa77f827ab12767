"""What a network's chain says, by JSON-RPC: transfers, used authorizations, contract signatures.

A node that fails, lies about its network or talks nonsense gives no verdict: ChainAway, and the
question is asked again later (W34: an outage is never the payer's fault).
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shared.errors import Invalid, Unavailable
from shared.payments.providers.calls import Call, Caller, Limits
from shared.payments.providers.outcomes import ProviderAway
from shared.payments.x402.networks import Network
from shared.payments.x402.values import address, hex_bytes, quantity, strict_json, word

USUAL_LIMITS = Limits(connect_seconds=3.0, answer_seconds=8.0, calls_at_once=8)
LOG_BLOCKS_MAX, LOG_WINDOWS_MAX = 5_000, 20
"""How far a used authorization is looked for, and in how many goes: nodes refuse 10,000 blocks at
once, and all together are more than any chain that we know makes in six hours."""

_TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
_AUTHORIZATION_USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
_AUTHORIZATION_STATE = "0xe94a0102"
_IS_VALID_SIGNATURE = "0x1626ba7e"
_TRANSFER_TOPICS = 3
# Who claims names the wallet: one that burns gas must not keep the node busy until it times out.
_WALLET_GAS = 3_000_000
_WORD_BYTES = 32
_REVERTED = 3
_OK = 200


class ChainAway(Unavailable):
    """The node gives no answer that can be trusted; nothing is known."""

    code = "chain_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int = 10) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


@dataclass(frozen=True)
class Transfer:
    """One Transfer of the token to us: *value* in its smallest units, *sender* in lower case."""

    sender: str
    value: int


@dataclass(frozen=True)
class TransactionFacts:
    """A mined transaction. *confirmations*: blocks on top of its own.

    *transfers* are all Transfers of the token to us in it, whoever sent the transaction and to
    whatever contract (W34); none if it failed.
    """

    transaction: str
    block: int
    confirmations: int
    is_successful: bool
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True)
class Head:
    """The newest block that the node knows, and its time in Unix seconds."""

    block: int
    timestamp: int


def transaction_hash(text: str) -> str:
    """Return a transaction's hash in lower case: one transaction, one hash (W31).

    Raises Invalid (``invalid_transaction_hash``).
    """
    try:
        return word(text)
    except ValueError as error:
        raise Invalid(
            "A transaction hash is 0x and 64 hex digits.", code="invalid_transaction_hash"
        ) from error


class Chain:
    """A client of one node of *network* at *rpc_url*; safe to share between threads.

    *clock* counts seconds for the breaker, *sleep* pauses between tries. Every method raises
    ChainAway.
    """

    def __init__(
        self,
        network: Network,
        rpc_url: str,
        *,
        limits: Limits = USUAL_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._network = network
        self._asset = network.token.asset.lower()
        self._pay_to = network.pay_to.lower()
        self._caller = Caller(
            provider=f"chain {network.caip2}",
            url=rpc_url,
            limits=limits,
            clock=clock,
            sleep=sleep,
        )
        self._is_right_chain = False

    def transfers(self, transaction: str) -> TransactionFacts | None:
        """Return what *transaction* (a hash in any case) moved to us; None if it is not mined.

        Raises Invalid (``invalid_transaction_hash``) for what is no hash.
        """
        wanted = transaction_hash(transaction)
        receipt = self._ask("eth_getTransactionReceipt", [wanted])
        with _sense():
            if receipt is None or receipt["blockNumber"] is None:
                return None
            block = _count(receipt["blockNumber"])
            is_successful = {"0x1": True, "0x0": False}[receipt["status"]]
            if word(receipt["transactionHash"]) != wanted:
                raise ValueError("the receipt of another transaction")
            found = [self._transfer(entry) for entry in receipt["logs"]] if is_successful else []
        return TransactionFacts(
            transaction=wanted,
            block=block,
            # Nodes behind one address may differ by a block.
            confirmations=max(0, self._block_number() - block),
            is_successful=is_successful,
            transfers=tuple(one for one in found if one is not None),
        )

    def head(self) -> Head:
        """Return the newest block. An authorization has run out when the chain's time says so."""
        found = self._ask("eth_getBlockByNumber", ["latest", False])
        with _sense():
            return Head(_count(found["number"]), _count(found["timestamp"]))

    def is_authorization_spent(
        self, payer: str, nonce: str, *, at_block: int | None = None
    ) -> bool:
        """Tell whether the authorization was used or cancelled, as of *at_block* or the newest."""
        data = f"{_AUTHORIZATION_STATE}{_padded(payer)}{word(nonce)[2:]}"
        answered = self._call(self._asset, data, at_block)
        with _sense():
            return {0: False, 1: True}[int.from_bytes(_one_word(answered))]

    def authorization_used(self, payer: str, nonce: str, *, from_block: int) -> str | None:
        """Return the hash of the transaction that used the authorization, None if none did.

        Looked for from *from_block*, LOG_WINDOWS_MAX times LOG_BLOCKS_MAX blocks far. Spent and
        yet not used means that the payer cancelled it, or that it was used before *from_block*.
        Used does not mean paid: the payer may have signed another transfer with the same nonce, so
        look at what the transaction moved to us (:meth:`transfers`).
        """
        head = self._block_number()
        topics = [_AUTHORIZATION_USED, f"0x{_padded(payer)}", word(nonce)]
        end = min(head + 1, from_block + LOG_WINDOWS_MAX * LOG_BLOCKS_MAX)
        for first in range(from_block, end, LOG_BLOCKS_MAX):
            wanted = {
                "address": self._asset,
                "topics": topics,
                "fromBlock": hex(first),
                "toBlock": hex(min(head, first + LOG_BLOCKS_MAX - 1)),
            }
            found = self._ask("eth_getLogs", [wanted])
            with _sense():
                for entry in _list(found):
                    if address(entry["address"]) != self._asset or entry["topics"] != topics:
                        raise ValueError("a log that was not asked for")
                    return word(entry["transactionHash"])
        return None

    def is_valid_signature(self, wallet: str, digest: bytes, signature: bytes) -> bool:
        """Ask the contract *wallet* whether it signed *digest* (EIP-1271); no contract, no.

        A contract that reverts has refused: that is its verdict, not a fault of the node.
        """
        padding = bytes(-len(signature) % _WORD_BYTES)
        data = (
            _IS_VALID_SIGNATURE
            + digest.hex()
            + f"{64:064x}{len(signature):064x}"
            + (signature + padding).hex()
        )
        try:
            answered = self._call(wallet, data, None, gas=_WALLET_GAS)
        except _Reverted:
            return False
        with _sense():
            said = hex_bytes(answered)
            # One word: there are addresses that answer everything with what they were told.
            return len(said) == _WORD_BYTES and f"0x{said[:4].hex()}" == _IS_VALID_SIGNATURE

    def _transfer(self, entry: Any) -> Transfer | None:
        topics = [word(topic) for topic in _list(entry["topics"])]
        is_ours = (
            address(entry["address"]) == self._asset
            and len(topics) == _TRANSFER_TOPICS
            and topics[0] == _TRANSFER
            and topics[2] == f"0x{_padded(self._pay_to)}"
        )
        if not is_ours:
            return None
        value = int.from_bytes(_one_word(entry["data"]))
        return Transfer(sender=f"0x{topics[1][-40:]}", value=value)

    def _block_number(self) -> int:
        found = self._ask("eth_blockNumber", [])
        with _sense():
            return _count(found)

    def _call(
        self, contract: str, data: str, at_block: int | None, *, gas: int | None = None
    ) -> Any:
        block = "latest" if at_block is None else hex(at_block)
        limit = {} if gas is None else {"gas": hex(gas)}
        return self._ask("eth_call", [{"to": contract, "data": data, **limit}, block])

    def _ask(self, method: str, params: list[Any]) -> Any:
        if not self._is_right_chain:
            with _sense():
                if quantity(self._exchange("eth_chainId", [])) != self._network.chain_id:
                    raise ValueError("a node of another chain")
            self._is_right_chain = True
        return self._exchange(method, params)

    def _exchange(self, method: str, params: list[Any]) -> Any:
        """Return the result of one JSON-RPC call. Raises _Reverted, ChainAway."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        call = Call(
            method,
            "",
            "POST",
            {"Content-Type": "application/json"},
            body=json.dumps(body).encode(),
        )
        try:
            answer = self._caller.read(call)
        except ProviderAway as error:
            raise ChainAway(
                "The chain cannot be asked now.", retry_after_seconds=error.retry_after_seconds
            ) from error
        if answer.status != _OK:
            raise ChainAway(f"The chain's node answered {answer.status}.")
        with _sense():
            found = strict_json(answer.body)
            if found["id"] != 1:
                raise ValueError("the answer to another call")
            fault = found.get("error")
            if fault is None:
                return found["result"]
            is_reverted = method == "eth_call" and fault["code"] == _REVERTED
        raise _Reverted if is_reverted else ChainAway("The chain's node has a fault.")


class _Reverted(ChainAway):
    """The contract that was called refused."""

    def __init__(self) -> None:
        super().__init__("The contract does not answer.")


@contextmanager
def _sense() -> Iterator[None]:
    """Turn whatever an answer of the wrong form does to its reader into ChainAway."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ChainAway("The chain's node does not make sense.") from error


def _count(value: Any) -> int:
    found = quantity(value)
    if found >= 2**63:
        raise ValueError("no number of a block or a second")
    return found


def _padded(account: str) -> str:
    return address(account)[2:].rjust(64, "0")


def _one_word(value: Any) -> bytes:
    found = hex_bytes(value)
    if len(found) != _WORD_BYTES:
        raise ValueError("must be 32 bytes")
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("must be a list")  # noqa: TRY004  one kind for _sense
    return value
