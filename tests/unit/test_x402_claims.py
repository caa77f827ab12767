"""The claim of a transfer: only its sender can make it, and only for the account it names (W32)."""

from collections.abc import Iterator

import pytest

from shared.errors import Forbidden, Invalid
from shared.payments.x402.chain import Chain, ChainAway
from shared.payments.x402.claims import check_claim, claim_text
from shared.payments.x402.signatures import text_digest
from tests.x402 import (
    IMPATIENT,
    OTHER,
    OTHER_KEY,
    PAYER,
    TRANSACTION,
    Node,
    network,
    running_server,
    text_signature,
)

ACCOUNT = "acct-7"
TEXT = claim_text(transaction=TRANSACTION, account_id=ACCOUNT)
SIGNED = text_signature(TEXT)
MAGIC = f"0x1626ba7e{'0' * 56}"


@pytest.fixture
def node() -> Iterator[Node]:
    with running_server(Node) as running:
        running.results["eth_call"] = "0x"  # nobody is a contract
        yield running


@pytest.fixture
def chain(node: Node) -> Chain:
    return Chain(network(), node.url, limits=IMPATIENT, sleep=lambda _: None)


def claim(chain: Chain, **changes: str) -> None:
    made = {
        "transaction": TRANSACTION,
        "account_id": ACCOUNT,
        "sender": PAYER,
        "signature": SIGNED,
        **changes,
    }
    check_claim(chain, **made)


def test_the_text_names_the_transaction_and_the_account() -> None:
    assert TEXT.splitlines() == [
        "I sent this transfer and want it credited to my Arrakis account.",
        f"Transaction: {TRANSACTION}",
        "Account: acct-7",
    ]


def test_the_sender_can_claim_and_no_node_is_needed(node: Node, chain: Chain) -> None:
    claim(chain)
    claim(chain, sender=PAYER.upper().replace("0X", "0x"))
    assert node.asked == []


def test_the_case_of_a_hash_makes_no_other_text() -> None:
    lower, upper = (f"0x{digits * 32}" for digits in ("ab", "AB"))
    texts = {claim_text(transaction=one, account_id=ACCOUNT) for one in (lower, upper)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"account_id": "acct-8"},
        {"transaction": f"0x{'13' * 32}"},
        {"sender": OTHER},
        {"signature": text_signature(TEXT, OTHER_KEY)},
        {"signature": text_signature("Log in to some site")},
        {"signature": "0x"},
        {"signature": f"0x{'11' * 65}"},
        {"signature": f"0x{'11' * 300}"},
    ],
)
def test_a_claim_that_the_sender_did_not_sign_is_forbidden(
    chain: Chain, changes: dict[str, str]
) -> None:
    with pytest.raises(Forbidden) as refused:
        claim(chain, **changes)
    assert refused.value.code == "claim_not_signed"
    account_id = changes.get("account_id", ACCOUNT)
    assert refused.value.details["text"].endswith(f"Account: {account_id}")


def test_a_contract_wallet_answers_for_itself(node: Node, chain: Chain) -> None:
    node.results["eth_call"] = MAGIC
    claim(chain, sender=OTHER, signature=f"0x{'22' * 80}")
    called, _ = node.params_of("eth_call")
    assert called["to"] == OTHER
    assert called["data"][10:74] == text_digest(TEXT).hex()


def test_a_wallet_that_cannot_be_asked_is_no_verdict(node: Node, chain: Chain) -> None:
    node.faults["eth_call"] = (500, "down")
    with pytest.raises(ChainAway):
        claim(chain, sender=OTHER)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"transaction": "0x12"}, "invalid_transaction_hash"),
        ({"account_id": "acct\n7"}, "invalid_account_id"),
        ({"sender": "0x12"}, "invalid_claim"),
        ({"signature": "nothing"}, "invalid_claim"),
        ({"signature": "0x1"}, "invalid_claim"),
    ],
)
def test_a_claim_of_the_wrong_form_is_malformed(
    chain: Chain, changes: dict[str, str], code: str
) -> None:
    with pytest.raises(Invalid) as refused:
        claim(chain, **changes)
    assert refused.value.code == code
