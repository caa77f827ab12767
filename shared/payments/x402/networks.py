"""The networks on which we take payments: the setting X402_NETWORKS, and amounts in their token.

The setting is a JSON list of objects {network, payTo, facilitatorUrl, rpcUrl?, asset?, name?,
version?, decimals?, confirmations?, maxTimeoutSeconds?}. Blank or ``[]``: x402 is off.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from shared.errors import Invalid
from shared.money import MICRO_PER_USD
from shared.payments.x402.values import address, is_misspelled, strict_json

_MICRO_DECIMALS = 6
_DECIMALS_MAX = 30
_CAIP2 = re.compile(r"eip155:[1-9][0-9]{0,17}")

# Protocols 2.1: version 1 has names for networks where version 2 has chain ids. The table is the
# package's (2.25.0); it cannot be imported from there without web3.
_V1_CHAIN_IDS = {
    "abstract": 2741,
    "abstract-testnet": 11124,
    "avalanche": 43114,
    "avalanche-fuji": 43113,
    "base": 8453,
    "base-sepolia": 84532,
    "celo": 42220,
    "ethereum": 1,
    "iotex": 4689,
    "monad": 143,
    "monad-testnet": 10143,
    "peaq": 3338,
    "polygon": 137,
    "polygon-amoy": 80002,
    "sei": 1329,
    "sei-testnet": 1328,
}
_V1_NAMES = {f"eip155:{chain_id}": name for name, chain_id in _V1_CHAIN_IDS.items()}


class NetworksError(ValueError):
    """X402_NETWORKS cannot be used; the message is a sentence that names the fault."""


@dataclass(frozen=True)
class Token:
    """A dollar token: its contract, and the name and version that it signs with (EIP-712)."""

    asset: str
    name: str
    version: str
    decimals: int


# Protocols 2.3. The names differ between Base and its test network, and a wrong one makes every
# signature wrong.
_KNOWN_TOKENS = {
    "eip155:1": Token("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USD Coin", "2", 6),
    "eip155:137": Token("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USD Coin", "2", 6),
    "eip155:8453": Token("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin", "2", 6),
    "eip155:43114": Token("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USD Coin", "2", 6),
    "eip155:84532": Token("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "2", 6),
}


@dataclass(frozen=True)
class Network:
    """One network of the setting. Addresses are spelled as the operator spelled them."""

    caip2: str
    pay_to: str
    token: Token
    # Both addresses may carry a key.
    facilitator_url: str = field(repr=False)
    rpc_url: str | None = field(repr=False)
    confirmations: int
    max_timeout_seconds: int

    @property
    def chain_id(self) -> int:
        """The number that signatures name the network by."""
        return chain_id_of(self.caip2)


def read_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in the setting X402_NETWORKS; none: x402 is off (behaviour 95).

    Raises NetworksError, which the process must not survive.
    """
    if not text.strip():
        return ()
    try:
        listed = strict_json(text)
    except ValueError as error:
        raise NetworksError(f"X402_NETWORKS is not JSON: {error}.") from error
    if not isinstance(listed, list):
        raise NetworksError("X402_NETWORKS must be a list of networks.")
    networks = tuple(_read_network(entry, f"X402_NETWORKS[{i}]") for i, entry in enumerate(listed))
    seen: set[str] = set()
    for network in networks:
        if network.caip2 in seen:
            raise NetworksError(f"X402_NETWORKS names {network.caip2} twice.")
        seen.add(network.caip2)
    return networks


def caip2_of(name: str) -> str:
    """Return a network's name in version 2: ``base`` is ``eip155:8453``; others stay as they are.

    So an unknown name is no name of ours, and is refused as a mismatch where it is compared.
    """
    return f"eip155:{_V1_CHAIN_IDS[name]}" if name in _V1_CHAIN_IDS else name


def v1_name_of(caip2: str) -> str | None:
    """Return a network's name in version 1, None if it has none: then version 1 is not offered."""
    return _V1_NAMES.get(caip2)


def chain_id_of(caip2: str) -> int:
    """Return the chain id in a name of version 2."""
    return int(caip2.removeprefix("eip155:"))


def to_units(amount_micro: int, decimals: int) -> int:
    """Return how many of a token's smallest units are worth *amount_micro*, exactly.

    Six decimals: the same number. Raises Invalid (``amount_not_payable``) if the token has too few
    decimals for the amount: nobody is asked to pay another sum than the one that is credited.
    """
    if decimals >= _MICRO_DECIMALS:
        return amount_micro * int(10 ** (decimals - _MICRO_DECIMALS))
    units, remainder = divmod(amount_micro, int(10 ** (_MICRO_DECIMALS - decimals)))
    if remainder:
        raise Invalid(
            f"The amount has more than the token's {decimals} decimals.", code="amount_not_payable"
        )
    return units


def to_micro(units: int, decimals: int) -> int:
    """Return what *units* of a token are worth in micro-USD, rounded down: never credit too much.

    Only a token of more than six decimals has anything to round.
    """
    if decimals >= _MICRO_DECIMALS:
        return units // int(10 ** (decimals - _MICRO_DECIMALS))
    return units * int(10 ** (_MICRO_DECIMALS - decimals))


def usdc_text(amount_micro: int) -> str:
    """Write micro-USD as USDC with its six decimals: 11000 -> ``0.011000`` (behaviour 97)."""
    whole, fraction = divmod(amount_micro, MICRO_PER_USD)
    return f"{whole}.{fraction:06d}"


def _spelled_address(text: str) -> str:
    found = address(text)
    if int(found, 16) == 0:
        raise ValueError("must not be the zero address")
    if is_misspelled(text):
        raise ValueError("has a wrong checksum: a letter or digit is mistyped")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ValueError("must be an http or https address")
    return text


def _caip2(text: str) -> str:
    if _CAIP2.fullmatch(text) is None:
        raise ValueError('must be a CAIP-2 name such as "eip155:8453"')
    return text


_Address = Annotated[str, AfterValidator(_spelled_address)]
_Url = Annotated[str, AfterValidator(_url)]
_Name = Annotated[str, Field(min_length=1, max_length=100)]


class _Entry(BaseModel):
    """One object of the setting, as it is written."""

    model_config = ConfigDict(strict=True, extra="forbid", alias_generator=to_camel)

    network: Annotated[str, AfterValidator(_caip2)]
    pay_to: _Address
    facilitator_url: _Url
    rpc_url: _Url | None = None
    asset: _Address | None = None
    name: _Name | None = None
    version: _Name | None = None
    decimals: Annotated[int, Field(ge=0, le=_DECIMALS_MAX)] | None = None
    confirmations: int = Field(default=12, ge=1, le=10_000)
    # A payment needs six seconds to settle (protocols 2.4), and nobody waits for an hour.
    max_timeout_seconds: int = Field(default=300, ge=10, le=3_600)


def _read_network(written: Any, place: str) -> Network:
    try:
        entry = _Entry.model_validate(written)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join([place, *map(str, fault["loc"])])
        message = fault["msg"].removeprefix("Value error, ")
        raise NetworksError(f"{where}: {message}.") from error
    token = _read_token(entry, place)
    if address(token.asset) == address(entry.pay_to):
        raise NetworksError(f"{place}.payTo: the token's own contract cannot be paid.")
    return Network(
        caip2=entry.network,
        pay_to=entry.pay_to,
        token=token,
        facilitator_url=entry.facilitator_url,
        rpc_url=entry.rpc_url,
        confirmations=entry.confirmations,
        max_timeout_seconds=entry.max_timeout_seconds,
    )


def _read_token(entry: _Entry, place: str) -> Token:
    known = _KNOWN_TOKENS.get(entry.network)
    if known and (entry.asset is None or address(entry.asset) == address(known.asset)):
        for name in ("name", "version", "decimals"):
            given, right = getattr(entry, name), getattr(known, name)
            if given is not None and given != right:
                raise NetworksError(f"{place}.{name}: the token has {right!r}, not {given!r}.")
        return known
    match entry:
        case _Entry(asset=str(asset), name=str(name), version=str(version), decimals=int(decimals)):
            return Token(asset, name, version, decimals)
        case _:
            fields = ("asset", "name", "version", "decimals")
            missing = next(name for name in fields if getattr(entry, name) is None)
            raise NetworksError(f"{place}.{missing}: must be given, we do not know the token.")
