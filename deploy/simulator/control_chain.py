"""The developer's API under /sim about x402: the chain, what the facilitator settled, the clock."""

from collections.abc import Callable
from typing import Any

from eth_abi.abi import encode
from flask import Blueprint, Response

from deploy.simulator import asking, facilitator
from deploy.simulator.answers import json_answer
from deploy.simulator.asking import Misuse, body, flag, sorry, whole_number
from deploy.simulator.chain import Chain, Movement, Transaction, UnknownTransaction
from deploy.simulator.clock import Clock
from deploy.simulator.facilitator import FacilitatorApi, Settlement
from deploy.simulator.networks import NETWORKS
from deploy.simulator.rpc import RpcApi
from deploy.simulator.wire import JsonObject

_View = Callable[..., Response]
_MOST_BLOCKS, _MOST_TRANSFERS = 10_000, 100
_FURTHEST_SECONDS = 10**9
_LAST_SECOND = 2**32 - 1
_TRANSFER = "0xa9059cbb"


class ChainControl:
    """The routes for developers about the chain and the facilitator."""

    def __init__(
        self, *, chain: Chain, facilitator_api: FacilitatorApi, rpc: RpcApi, clock: Clock
    ) -> None:
        self._chain = chain
        self._facilitator = facilitator_api
        self._rpc = rpc
        self._clock = clock

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("chain_control", __name__, url_prefix="/sim")
        table: list[tuple[str, str, _View]] = [
            ("GET", "/chain", self.show),
            ("POST", "/chain/reset", self.reset),
            ("POST", "/chain/balances", self.set_balance),
            ("POST", "/chain/wallets", self.add_wallet),
            ("POST", "/chain/nonces", self.use_nonce),
            ("POST", "/chain/transfers", self.transfer),
            ("POST", "/chain/mine", self.mine),
            ("POST", "/chain/drop", self.drop),
            ("GET", "/facilitator/settlements", self.list_settlements),
            ("POST", "/clock", self.set_clock),
        ]
        for method, rule, view in table:
            name = f"{method} {rule}".replace("/", " ")
            routes.add_url_rule(rule, name, view, methods=[method])
        routes.register_error_handler(Misuse, lambda error: sorry(error, 400))
        routes.register_error_handler(UnknownTransaction, lambda error: sorry(error, 404))
        return routes

    def show(self) -> Response:
        """GET /chain: which network it is, its newest block, what waits, what was asked."""
        network, head = self._chain.network, self._chain.head()
        waiting = [one.hash for one in self._chain.transactions() if one.block is None]
        return json_answer(
            {
                "chain_id": network.chain_id,
                "network": network.caip2,
                "network_v1": network.name,
                "usdc": network.usdc,
                "usdc_name": network.usdc_name,
                "facilitator": facilitator.ADDRESS,
                "block_number": head.number,
                "timestamp": head.timestamp,
                "waiting": waiting,
                "rpc_calls": self._rpc.counts(),
            }
        )

    def reset(self) -> Response:
        """POST /chain/reset {chain_id?, now?}: begin anew, with nothing settled; see /clock."""
        asked = body()
        given = whole_number(asked, "chain_id", least=1, most=_LAST_SECOND)
        chain_id = self._chain.network.chain_id if given is None else given
        if chain_id not in NETWORKS:
            raise Misuse(f"chain_id must be one of: {', '.join(map(str, NETWORKS))}.")
        self._set_clock(asked)
        self._chain.reset(chain_id)
        self._facilitator.reset()
        return self.show()

    def set_balance(self) -> Response:
        """POST /chain/balances {address, amount}: give an address exactly that much USDC."""
        asked = body()
        address = asking.address(asked, "address")
        amount = asking.token_amount(asked.get("amount"), "amount")
        self._chain.set_balance(address, amount)
        return json_answer({"address": address, "amount": str(amount)})

    def add_wallet(self) -> Response:
        """POST /chain/wallets {address, owner, is_delegated?}: a wallet that *owner* signs for."""
        asked = body()
        address, owner = asking.address(asked, "address"), asking.address(asked, "owner")
        is_delegated = flag(asked, "is_delegated", usual=False)
        self._chain.add_wallet(address, owner, is_delegated=is_delegated)
        return json_answer({"address": address, "code": self._chain.code_of(address)})

    def use_nonce(self) -> Response:
        """POST /chain/nonces {from, nonce}: use up an authorization's nonce."""
        asked = body()
        nonce = bytes.fromhex(asking.word(asked, "nonce")[2:])
        return json_answer(_shown(self._chain.use_nonce(asking.address(asked, "from"), nonce)))

    def transfer(self) -> Response:
        """POST /chain/transfers: one transaction with one Transfer event for each amount.

        {from, to, amounts} or {from, transfers: [{to, amount, from?, token?}]}; and
        router? (the transaction's `to`), fails? (receipt 0x0), wait? (until blocks are mined).
        """
        asked = body()
        sender = asking.address(asked, "from")
        router = None if asked.get("router") is None else asking.address(asked, "router")
        movements = self._movements(asked, sender)
        sent = self._chain.transfer(
            movements,
            sender=sender,
            router=router,
            data=_calldata(movements),
            fails=flag(asked, "fails", usual=False),
            wait=flag(asked, "wait", usual=False),
        )
        return json_answer(_shown(sent))

    def mine(self) -> Response:
        """POST /chain/mine {blocks?}: mine blocks (1); what waits goes into the first."""
        blocks = whole_number(body(), "blocks", least=1, most=_MOST_BLOCKS) or 1
        return json_answer({"block_number": self._chain.mine(blocks).number})

    def drop(self) -> Response:
        """POST /chain/drop {transaction}: a waiting transaction that will never be mined."""
        self._chain.drop(asking.word(body(), "transaction"))
        return self.show()

    def list_settlements(self) -> Response:
        """GET /facilitator/settlements: what was sent to the chain, and how often it was asked."""
        settled = [self._settlement(one) for one in self._facilitator.settlements()]
        return json_answer({"settlements": settled, "calls": self._facilitator.counts()})

    def set_clock(self) -> Response:
        """POST /clock {now} (stand still, Unix seconds), {ahead_seconds} or {} (the right time)."""
        self._set_clock(body())
        return json_answer({"now": self._clock.seconds()})

    def _set_clock(self, asked: JsonObject) -> None:
        stop_at = whole_number(asked, "now", least=0, most=_LAST_SECOND)
        ahead = whole_number(asked, "ahead_seconds", least=0, most=_FURTHEST_SECONDS)
        if stop_at is not None:
            self._clock.stop(stop_at)
        else:
            self._clock.run(ahead_seconds=ahead or 0)

    def _movements(self, asked: JsonObject, sender: str) -> list[Movement]:
        if "transfers" not in asked:
            to, amounts = asking.address(asked, "to"), _items(asked, "amounts")
            asked = {"transfers": [{"to": to, "amount": amount} for amount in amounts]}
        movements = []
        for item in _items(asked, "transfers"):
            if not isinstance(item, dict):
                raise Misuse("Each of transfers must be a JSON object.")
            movements.append(
                Movement(
                    source=asking.address(item, "from") if "from" in item else sender,
                    target=asking.address(item, "to"),
                    amount=asking.token_amount(item.get("amount"), "amount"),
                    token=(
                        asking.address(item, "token")
                        if "token" in item
                        else self._chain.token.address
                    ),
                )
            )
        return movements

    def _settlement(self, settlement: Settlement) -> JsonObject:
        found = self._chain.find(settlement.transaction)
        authorization = settlement.authorization
        return {
            "transaction": settlement.transaction,
            "status": "dropped" if found is None else _status(found),
            "network": settlement.network,
            "payer": authorization.payer,
            "payTo": authorization.to,
            "value": str(authorization.value),
            "nonce": f"0x{authorization.nonce.hex()}",
        }


def _items(asked: JsonObject, name: str) -> list[Any]:
    value = asked.get(name)
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_TRANSFERS:
        raise Misuse(f"{name} must be a list of 1 to {_MOST_TRANSFERS}.")
    return value


def _status(sent: Transaction) -> str:
    if sent.block is None:
        return "waiting"
    return "mined" if sent.is_success else "failed"


def _shown(sent: Transaction) -> JsonObject:
    return {
        "transaction": sent.hash,
        "status": _status(sent),
        "block_number": None if sent.block is None else sent.block.number,
    }


def _calldata(movements: list[Movement]) -> str:
    """Return the input of a plain transfer; what a router is told is its own business."""
    if len(movements) != 1:
        return "0x"
    to, amount = movements[0].target, movements[0].amount
    return _TRANSFER + encode(["address", "uint256"], [to, amount]).hex()
