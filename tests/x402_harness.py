"""What tests of x402 stand on: the simulated facilitator and chain, and payers of both versions."""

from typing import Any

from deploy.simulator.networks import NETWORKS
from deploy.simulator.wallet import address_of, key_named, read_header, sign_v1, sign_v2

PAYER_KEY = key_named("payer")
PAYER = address_of(PAYER_KEY)
SHOP = address_of(key_named("shop"))
OTHER = address_of(key_named("other"))
AMOUNT = 25_000_000
BASE, BASE_SEPOLIA = 8453, 84532


class X402:
    """A client of a running simulator's facilitator, node and control API."""

    def __init__(self, simulator: Any) -> None:
        self.simulator = simulator
        self.reset()

    def reset(self, chain_id: int = BASE, **clock: int) -> None:
        self.network = NETWORKS[chain_id]
        self.simulator.control("chain/reset", chain_id=chain_id, **clock)

    def give(self, address: str, amount: int) -> None:
        self.simulator.control("chain/balances", address=address, amount=str(amount))

    def fault(self, mode: str, **limits: Any) -> None:
        self.simulator.control("facilitator/faults", mode=mode, **limits)

    def mine(self, blocks: int = 1) -> int:
        return self.simulator.control("chain/mine", blocks=blocks)["block_number"]

    def transfer(self, *amounts: int, to: str = SHOP, **more: Any) -> dict[str, Any]:
        body = {"from": PAYER, "to": to, "amounts": [str(one) for one in amounts]} | more
        return self.simulator.control("chain/transfers", **body)

    def settlements(self) -> list[dict[str, Any]]:
        return self.simulator.get("/sim/facilitator/settlements").json()["settlements"]

    def calls(self) -> dict[str, int]:
        return self.simulator.get("/sim/facilitator/settlements").json()["calls"]

    def required(self, amount: int = AMOUNT, version: int = 2, **terms: Any) -> dict[str, Any]:
        """Return the terms of a payment, as a 402 would state them."""
        network = self.network
        common = {
            "scheme": "exact",
            "asset": network.usdc,
            "payTo": SHOP,
            "maxTimeoutSeconds": 60,
            "extra": {"name": network.usdc_name, "version": "2"},
        }
        about = {"description": "Credits", "mimeType": "application/json"}
        if version == 2:
            accepted = common | {"network": network.caip2, "amount": str(amount)} | terms
            resource = about | {"url": "http://localhost/topup"}
            return {"x402Version": 2, "resource": resource, "accepts": [accepted]}
        old = {"network": network.name, "maxAmountRequired": str(amount)}
        accepted = common | old | about | {"resource": "http://localhost/topup"} | terms
        return {"x402Version": 1, "error": "", "accepts": [accepted]}

    def claim(
        self, amount: int = AMOUNT, version: int = 2, key: str = PAYER_KEY, **how: Any
    ) -> dict[str, Any]:
        """Return a signed payment and its terms, as a seller sends them to the facilitator."""
        required = self.required(amount, version)
        header = (sign_v2 if version == 2 else sign_v1)(required, key, **how)
        return {
            "x402Version": version,
            "paymentPayload": read_header(header),
            "paymentRequirements": required["accepts"][0],
        }

    def verify(self, claim: Any, **more: Any) -> Any:
        return self.simulator.post("/facilitator/verify", claim, **more)

    def settle(self, claim: Any, **more: Any) -> Any:
        return self.simulator.post("/facilitator/settle", claim, **more)

    def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """Return the node's whole answer to one call."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return self.simulator.post("/rpc", call).json()

    def rpc(self, method: str, *params: Any) -> Any:
        answer = self.ask(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    def block(self, tag: str) -> Any:
        """Return a block's head and the hashes of its transactions."""
        params = [tag, False]
        return self.rpc("eth_getBlockByNumber", *params)

    def is_used(self, claim: dict[str, Any]) -> bool:
        """Ask the token's contract whether the authorization was used."""
        authorization = claim["paymentPayload"]["payload"]["authorization"]
        payer, nonce = authorization["from"][2:].lower().rjust(64, "0"), authorization["nonce"][2:]
        call = {"to": self.network.usdc, "data": f"0xe94a0102{payer}{nonce}"}
        return bool(int(self.rpc("eth_call", call, "latest"), 16))

    def balance(self, owner: str) -> int:
        call = {"to": self.network.usdc, "data": f"0x70a08231{owner[2:].lower().rjust(64, '0')}"}
        return int(self.rpc("eth_call", call, "latest"), 16)
