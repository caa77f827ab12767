"""The networks that the simulated chain can be, as x402 names them, with their USDC."""

from dataclasses import dataclass

TOKEN_VERSION = "2"  # noqa: S105 - the version in USDC's signing domain
DECIMALS = 6


@dataclass(frozen=True)
class Network:
    """A network: its name in x402 v1, its USDC and the name USDC signs with there."""

    chain_id: int
    name: str
    usdc: str
    usdc_name: str

    @property
    def caip2(self) -> str:
        """Its name in x402 v2."""
        return f"eip155:{self.chain_id}"


NETWORKS = {
    one.chain_id: one
    for one in (
        Network(8453, "base", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin"),
        Network(84532, "base-sepolia", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC"),
    )
}


def network_named(name: str) -> Network | None:
    """Return the network with this v1 or v2 name."""
    return next((one for one in NETWORKS.values() if name in (one.name, one.caip2)), None)
