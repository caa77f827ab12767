"""X402_NETWORKS: what is taken, what is refused with which sentence, and amounts in tokens."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.money import MAX_AMOUNT_MICRO
from shared.payments.x402.networks import (
    NetworksError,
    caip2_of,
    read_networks,
    to_micro,
    to_units,
    usdc_text,
    v1_name_of,
)
from tests.x402 import EXCHANGES, PAY_TO, network

BASE_USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
HONEY = "0xFCBD14DC51f0A4d49d5E53C2E0950e0bC26d0Dce"
BASE = {"network": "eip155:8453", "payTo": PAY_TO, "facilitatorUrl": "https://f.test"}
BERACHAIN = BASE | {
    "network": "eip155:80094",
    "asset": HONEY,
    "name": "Honey",
    "version": "1",
    "decimals": 18,
}


@pytest.mark.parametrize("text", ["", "  ", "[]", " [ ] "])
def test_without_networks_x402_is_off_and_needs_no_recipient_95(text: str) -> None:
    assert read_networks(text) == ()


def test_a_known_network_brings_its_token() -> None:
    (found,) = read_networks(json.dumps([BASE]))
    assert (found.caip2, found.chain_id, found.pay_to) == ("eip155:8453", 8453, PAY_TO)
    token = found.token
    assert (token.asset, token.name, token.version, token.decimals) == (
        BASE_USDC,
        "USD Coin",
        "2",
        6,
    )
    assert (found.confirmations, found.max_timeout_seconds, found.rpc_url) == (12, 300, None)


def test_a_test_network_signs_with_another_name_than_base() -> None:
    assert network("eip155:84532").token.name == "USDC"


def test_an_unknown_network_brings_its_own_token() -> None:
    found = read_networks(json.dumps([BASE, BERACHAIN | {"rpcUrl": "https://rpc.test/key"}]))[1]
    assert (found.chain_id, found.token.decimals, found.token.name) == (80094, 18, "Honey")
    assert found.rpc_url == "https://rpc.test/key"


def test_the_keys_in_addresses_are_not_shown() -> None:
    found = network(rpcUrl="https://rpc.test/a-key", facilitatorUrl="https://f.test/b-key")
    assert "key" not in repr(found)


def without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


FAULTS = {
    "no JSON": ("{nonsense", "X402_NETWORKS is not JSON"),
    "a key twice": ('[{"network": "a", "network": "b"}]', "is not JSON: a key comes twice"),
    "no list": (json.dumps(BASE), "must be a list"),
    "no object": ('["eip155:8453"]', "X402_NETWORKS[0]"),
    "no recipient": ([without(BASE, "payTo")], "X402_NETWORKS[0].payTo: Field required"),
    "empty recipient": ([BASE | {"payTo": ""}], "X402_NETWORKS[0].payTo: must be an address"),
    "blank recipient": ([BASE | {"payTo": "   "}], "X402_NETWORKS[0].payTo: must be an address"),
    "null recipient": ([BASE | {"payTo": None}], "X402_NETWORKS[0].payTo"),
    "short recipient": ([BASE | {"payTo": PAY_TO[:-1]}], "payTo: must be an address"),
    "mistyped recipient": ([BASE | {"payTo": PAY_TO[:-1] + "D"}], "payTo: has a wrong checksum"),
    "zero recipient": ([BASE | {"payTo": f"0x{'0' * 40}"}], "payTo: must not be the zero address"),
    "token as recipient": ([BASE | {"payTo": BASE_USDC}], "payTo: the token's own contract"),
    "no facilitator": ([without(BASE, "facilitatorUrl")], "facilitatorUrl: Field required"),
    "blank facilitator": ([BASE | {"facilitatorUrl": " "}], "facilitatorUrl: must be an http"),
    "odd facilitator": ([BASE | {"facilitatorUrl": "ftp://f.test"}], "must be an http or https"),
    "blank node": ([BASE | {"rpcUrl": ""}], "rpcUrl: must be an http or https address"),
    "a name of version 1": ([BASE | {"network": "base"}], "network: must be a CAIP-2 name"),
    "another chain family": ([BASE | {"network": "solana:5eykt4"}], "must be a CAIP-2 name"),
    "a network twice": ([BASE, BASE], "X402_NETWORKS names eip155:8453 twice"),
    "other decimals": ([BASE | {"decimals": 18}], "[0].decimals: the token has 6, not 18"),
    "other decimals, asset given": (
        [BASE | {"asset": BASE_USDC.lower(), "decimals": 8}],
        "[0].decimals: the token has 6, not 8",
    ),
    "another name": ([BASE | {"name": "USDC"}], "name: the token has 'USD Coin', not 'USDC'"),
    "another token without its name": ([BASE | {"asset": HONEY}], "[0].name: must be given"),
    "unknown network, no asset": ([without(BERACHAIN, "asset")], "asset: must be given"),
    "unknown network, no name": ([without(BERACHAIN, "name")], "name: must be given"),
    "unknown network, no version": ([without(BERACHAIN, "version")], "version: must be given"),
    "unknown network, no decimals": ([without(BERACHAIN, "decimals")], "decimals: must be given"),
    "empty name": ([BERACHAIN | {"name": ""}], "X402_NETWORKS[0].name"),
    "negative decimals": ([BERACHAIN | {"decimals": -1}], "X402_NETWORKS[0].decimals"),
    "decimals as text": ([BERACHAIN | {"decimals": "18"}], "X402_NETWORKS[0].decimals"),
    "time-out 0": ([BASE | {"maxTimeoutSeconds": 0}], "[0].maxTimeoutSeconds"),
    "no confirmation": ([BASE | {"confirmations": 0}], "X402_NETWORKS[0].confirmations"),
    "an unknown field": ([BASE | {"payto": PAY_TO}], "X402_NETWORKS[0].payto"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_setting_is_named_95(name: str) -> None:
    written, sentence = FAULTS[name]
    with pytest.raises(NetworksError) as refused:
        read_networks(written if isinstance(written, str) else json.dumps(written))
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("X402_NETWORKS")


@pytest.mark.parametrize("spelling", [PAY_TO.lower(), f"0x{PAY_TO[2:].upper()}", PAY_TO])
def test_a_recipient_in_one_case_or_with_its_checksum_is_taken(spelling: str) -> None:
    assert network(payTo=spelling).pay_to == spelling


def test_the_names_of_version_1() -> None:
    names = {"base": 8453, "base-sepolia": 84532, "avalanche": 43114, "polygon": 137}
    for name, chain_id in names.items():
        assert caip2_of(name) == f"eip155:{chain_id}"
        assert v1_name_of(f"eip155:{chain_id}") == name
    assert caip2_of("eip155:8453") == "eip155:8453"
    assert caip2_of("no-such-network") == "no-such-network"
    assert v1_name_of("eip155:80094") is None


def test_what_the_facilitator_of_the_vectors_supports_is_one_network_in_two_words() -> None:
    supported = json.loads(EXCHANGES["calls"][0]["response"]["body"])
    assert {caip2_of(kind["network"]) for kind in supported["kinds"]} == {"eip155:84532"}


@pytest.mark.parametrize(
    ("micro", "decimals", "units"),
    [
        (10_000, 6, 10_000),
        (1, 18, 1_000_000_000_000),
        (25_000_000, 18, 25 * 10**18),
        (MAX_AMOUNT_MICRO, 30, MAX_AMOUNT_MICRO * 10**24),
        (1_230_000, 2, 123),
        (3_000_000, 0, 3),
    ],
)
def test_an_amount_in_a_tokens_units(micro: int, decimals: int, units: int) -> None:
    assert to_units(micro, decimals) == units
    assert to_micro(units, decimals) == micro


@pytest.mark.parametrize(("micro", "decimals"), [(1, 5), (1_234_567, 2), (999_999, 0)])
def test_an_amount_that_the_token_cannot_show_is_refused(micro: int, decimals: int) -> None:
    with pytest.raises(Invalid) as refused:
        to_units(micro, decimals)
    assert refused.value.code == "amount_not_payable"


def test_units_below_a_micro_dollar_are_not_credited() -> None:
    assert to_micro(1_999_999_999_999, 18) == 1


@given(micro=st.integers(0, MAX_AMOUNT_MICRO), decimals=st.integers(6, 30))
def test_there_and_back_nothing_is_lost(micro: int, decimals: int) -> None:
    assert to_micro(to_units(micro, decimals), decimals) == micro


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (11_000, "0.011000"),
        (1_500_000, "1.500000"),
        (10_123_456, "10.123456"),
        (0, "0.000000"),
    ],
)
def test_usdc_as_text_has_six_decimals_97(micro: int, text: str) -> None:
    assert usdc_text(micro) == text
