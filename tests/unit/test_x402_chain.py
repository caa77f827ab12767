"""The chain's client against a real server: what a node's answers mean, and which mean nothing."""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.errors import Invalid
from shared.payments.providers.calls import Limits
from shared.payments.x402.chain import (
    LOG_BLOCKS_MAX,
    LOG_WINDOWS_MAX,
    Chain,
    ChainAway,
    Head,
    TransactionFacts,
    Transfer,
)
from shared.payments.x402.ethereum import keccak
from tests.x402 import (
    IMPATIENT,
    NONCE,
    OTHER,
    PAY_TO,
    PAYER,
    TRANSACTION,
    Node,
    network,
    nobody_listens,
    running_server,
)

NETWORK = network()
USDC = NETWORK.token.asset.lower()
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
MAGIC = f"0x1626ba7e{'0' * 56}"
DIGEST = bytes(range(32))


@pytest.fixture
def node() -> Iterator[Node]:
    with running_server(Node) as running:
        yield running


def chain_at(url: str, limits: Limits = IMPATIENT) -> Chain:
    return Chain(NETWORK, f"{url}/rpc/key", limits=limits, sleep=lambda _: None)


@pytest.fixture
def chain(node: Node) -> Chain:
    return chain_at(node.url)


def topic(address: str) -> str:
    return f"0x{'0' * 24}{address[2:].lower()}"


def amount(value: int) -> str:
    return f"0x{value:064x}"


def transfer_log(sender: str = PAYER, value: int = 5_000_000, **fields: Any) -> dict[str, Any]:
    topics = [TRANSFER, topic(sender), topic(PAY_TO)]
    return {"address": USDC, "topics": topics, "data": amount(value), **fields}


def receipt(*logs: Any, **fields: Any) -> dict[str, Any]:
    return {
        "transactionHash": TRANSACTION,
        "blockNumber": "0x64",
        "status": "0x1",
        "to": USDC,
        "logs": list(logs),
        **fields,
    }


def facts(*transfers: Transfer, **fields: Any) -> TransactionFacts:
    known = {"block": 100, "confirmations": 12, "is_successful": True, **fields}
    return TransactionFacts(transaction=TRANSACTION, transfers=transfers, **known)


def test_the_constants_are_the_hashes_of_their_names() -> None:
    assert f"0x{keccak(text='Transfer(address,address,uint256)').hex()}" == TRANSFER
    assert f"0x{keccak(text='AuthorizationUsed(address,bytes32)').hex()}" == USED


def test_every_transfer_to_us_counts_whoever_sends_the_transaction(
    node: Node, chain: Chain
) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(
        transfer_log(value=1),
        transfer_log(OTHER, value=2),
        transfer_log(value=3, address=USDC.upper().replace("0X", "0x")),
        to=OTHER,
    )
    expected = facts(Transfer(PAYER, 1), Transfer(OTHER, 2), Transfer(PAYER, 3))
    assert chain.transfers(TRANSACTION) == expected


def test_a_hash_in_other_letters_is_the_same_transaction(node: Node, chain: Chain) -> None:
    shouted = f"0x{'AB' * 32}"
    node.results["eth_getTransactionReceipt"] = receipt(transactionHash=shouted)
    found = chain.transfers(shouted)
    assert found is not None
    assert found.transaction == shouted.lower()
    assert node.params_of("eth_getTransactionReceipt") == [shouted.lower()]


@pytest.mark.parametrize(
    "log",
    [
        transfer_log(address=OTHER),
        transfer_log(topics=[TRANSFER, topic(PAYER), topic(OTHER)]),
        transfer_log(topics=[USED, topic(PAYER), topic(PAY_TO)]),
        transfer_log(topics=[TRANSFER, topic(PAYER), topic(PAY_TO), amount(1)]),
        transfer_log(topics=[]),
    ],
)
def test_other_logs_are_no_transfers_to_us(node: Node, chain: Chain, log: dict[str, Any]) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(log, transfer_log(value=7))
    assert chain.transfers(TRANSACTION) == facts(Transfer(PAYER, 7))


def test_a_transaction_that_failed_moved_nothing(node: Node, chain: Chain) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(status="0x0")
    assert chain.transfers(TRANSACTION) == facts(is_successful=False)


@pytest.mark.parametrize("answer", [None, receipt(blockNumber=None)])
def test_a_transaction_that_is_not_mined_has_no_facts(
    node: Node, chain: Chain, answer: dict[str, Any] | None
) -> None:
    node.results["eth_getTransactionReceipt"] = answer
    assert chain.transfers(TRANSACTION) is None


@pytest.mark.parametrize(("head", "count"), [("0x64", 0), ("0x63", 0), ("0x6f", 11)])
def test_confirmations_are_the_blocks_on_top(
    node: Node, chain: Chain, head: str, count: int
) -> None:
    node.results["eth_getTransactionReceipt"] = receipt()
    node.results["eth_blockNumber"] = head
    assert chain.transfers(TRANSACTION) == facts(confirmations=count)


@pytest.mark.parametrize("text", ["", "0x12", TRANSACTION[2:], f"{TRANSACTION}00", "0xzz"])
def test_what_is_no_hash_is_not_asked_for(node: Node, chain: Chain, text: str) -> None:
    with pytest.raises(Invalid) as refused:
        chain.transfers(text)
    assert refused.value.code == "invalid_transaction_hash"
    assert node.asked == []


WRONG_RECEIPTS = {
    "a text": "text",
    "a list": [],
    "empty": {},
    "another transaction": receipt(transactionHash=amount(1)),
    "no status": {k: v for k, v in receipt().items() if k != "status"},
    "an odd status": receipt(status="0x2"),
    "a status of a list": receipt(status=[]),
    "a block as a number": receipt(blockNumber=100),
    "no logs": receipt(logs=None),
    "a log as text": receipt("text"),
    "a log without data": receipt(transfer_log(data="0x")),
    "a log with a number": receipt(transfer_log(data=5)),
    "topics as text": receipt(transfer_log(topics="text")),
    "a short topic": receipt(transfer_log(topics=[TRANSFER, PAYER, PAY_TO])),
}


@pytest.mark.parametrize("name", WRONG_RECEIPTS)
def test_a_receipt_that_makes_no_sense_is_no_verdict(node: Node, chain: Chain, name: str) -> None:
    node.results["eth_getTransactionReceipt"] = WRONG_RECEIPTS[name]
    with pytest.raises(ChainAway):
        chain.transfers(TRANSACTION)


FAULTS: dict[str, Any] = {
    "500": (500, "down"),
    "503 in HTML": (503, "<html>down</html>"),
    "429": (429, {"error": "too many"}),
    "401": (401, {"error": "no key"}),
    "404": (404, "not found"),
    "a redirect": (307, ""),
    "HTML": (200, "<html>"),
    "nothing": (200, ""),
    "a list": (200, []),
    "a text": (200, '"0x1"'),
    "another call's answer": (200, {"jsonrpc": "2.0", "id": 2, "result": "0x70"}),
    "no id": (200, {"jsonrpc": "2.0", "result": "0x70"}),
    "no result": (200, {"jsonrpc": "2.0", "id": 1}),
    "an error": (200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "m"}}),
    "a revert of no call": (200, {"jsonrpc": "2.0", "id": 1, "error": {"code": 3}}),
    "an error in words": (200, {"jsonrpc": "2.0", "id": 1, "error": "rate limited"}),
    "error and result": (200, {"id": 1, "error": {"code": -32000}, "result": "0x70"}),
    "a number": (200, {"jsonrpc": "2.0", "id": 1, "result": 112}),
    "a leading zero": (200, {"jsonrpc": "2.0", "id": 1, "result": "0x070"}),
    "a result twice": (200, '{"id": 1, "result": "0x1", "result": "0x70"}'),
    "a hang": "hang",
    "half an answer": "truncated",
    "a closed connection": "close",
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("method", ["eth_chainId", "eth_blockNumber"])
def test_a_node_with_a_fault_gives_no_verdict(
    node: Node, chain: Chain, name: str, method: str
) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(transfer_log())
    node.faults[method] = FAULTS[name]
    with pytest.raises(ChainAway) as away:
        chain.transfers(TRANSACTION)
    assert away.value.code == "chain_unavailable"
    assert away.value.retry_after_seconds > 0


def test_a_refused_connection_is_no_verdict() -> None:
    with nobody_listens() as url, pytest.raises(ChainAway):
        chain_at(url).transfers(TRANSACTION)


def test_a_node_of_another_chain_is_not_believed(node: Node, chain: Chain) -> None:
    node.results["eth_chainId"] = "0x2105"
    node.results["eth_getTransactionReceipt"] = receipt(transfer_log())
    with pytest.raises(ChainAway):
        chain.transfers(TRANSACTION)
    assert set(node.methods()) == {"eth_chainId"}


def test_the_chain_is_asked_for_its_name_once(node: Node, chain: Chain) -> None:
    node.results["eth_getTransactionReceipt"] = receipt()
    chain.transfers(TRANSACTION)
    chain.transfers(TRANSACTION)
    assert node.methods().count("eth_chainId") == 1


def test_what_changes_nothing_is_asked_again_after_a_fault(node: Node, chain: Chain) -> None:
    node.faults["eth_getBlockByNumber"] = (500, "down")
    with pytest.raises(ChainAway):
        chain.head()
    assert node.methods().count("eth_getBlockByNumber") == 3


def test_the_head_has_the_chains_own_time(node: Node, chain: Chain) -> None:
    node.results["eth_getBlockByNumber"] = {"number": "0x70", "timestamp": "0x9"}
    assert chain.head() == Head(112, 9)


@pytest.mark.parametrize(
    "answer", [None, {}, {"number": "0x70"}, {"number": "0x1", "timestamp": hex(2**63)}]
)
def test_a_head_that_makes_no_sense_is_no_verdict(node: Node, chain: Chain, answer: Any) -> None:
    node.results["eth_getBlockByNumber"] = answer
    with pytest.raises(ChainAway):
        chain.head()


@pytest.mark.parametrize(("word", "is_spent"), [(0, False), (1, True)])
def test_the_token_knows_whether_an_authorization_is_spent(
    node: Node, chain: Chain, word: int, is_spent: bool
) -> None:
    node.results["eth_call"] = amount(word)
    assert chain.is_authorization_spent(PAYER.upper().replace("0X", "0x"), NONCE) is is_spent
    called, block = node.params_of("eth_call")
    selector = keccak(text="authorizationState(address,bytes32)")[:4].hex()
    assert called == {"to": USDC, "data": f"0x{selector}{topic(PAYER)[2:]}{NONCE[2:]}"}
    assert block == "latest"


def test_the_token_can_be_asked_as_of_a_block(node: Node, chain: Chain) -> None:
    node.results["eth_call"] = amount(0)
    chain.is_authorization_spent(PAYER, NONCE, at_block=112)
    assert node.params_of("eth_call")[1] == "0x70"


@pytest.mark.parametrize("answer", ["0x", amount(2), "0x01", None, True])
def test_a_state_that_makes_no_sense_is_no_verdict(node: Node, chain: Chain, answer: Any) -> None:
    node.results["eth_call"] = answer
    with pytest.raises(ChainAway):
        chain.is_authorization_spent(PAYER, NONCE)


REVERT = {"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "execution reverted"}}


def test_a_token_that_reverts_has_no_state_to_tell(node: Node, chain: Chain) -> None:
    node.faults["eth_call"] = (200, REVERT)
    with pytest.raises(ChainAway):
        chain.is_authorization_spent(PAYER, NONCE)


def used_log(**fields: Any) -> dict[str, Any]:
    topics = [USED, topic(PAYER), NONCE]
    return {"address": USDC, "topics": topics, "transactionHash": TRANSACTION, **fields}


def test_the_transaction_that_used_an_authorization(node: Node, chain: Chain) -> None:
    node.results["eth_getLogs"] = [used_log()]
    assert chain.authorization_used(PAYER, NONCE, from_block=100) == TRANSACTION
    assert node.params_of("eth_getLogs") == [
        {
            "address": USDC,
            "topics": [USED, topic(PAYER), NONCE],
            "fromBlock": "0x64",
            "toBlock": "0x70",
        }
    ]


def test_an_authorization_that_nobody_used(node: Node, chain: Chain) -> None:
    node.results["eth_getLogs"] = []
    assert chain.authorization_used(PAYER, NONCE, from_block=100) is None


@pytest.mark.parametrize(
    ("head", "goes", "last"),
    [
        (LOG_BLOCKS_MAX * 3 // 2, 2, LOG_BLOCKS_MAX * 3 // 2),
        (0xFFFFFF, LOG_WINDOWS_MAX, LOG_BLOCKS_MAX * LOG_WINDOWS_MAX),
    ],
)
def test_an_authorization_is_looked_for_in_goes_without_gaps_and_only_so_far(
    node: Node, chain: Chain, head: int, goes: int, last: int
) -> None:
    node.results |= {"eth_getLogs": [], "eth_blockNumber": hex(head)}
    chain.authorization_used(PAYER, NONCE, from_block=1)
    asked = [body["params"][0] for _, body in node.asked if body["method"] == "eth_getLogs"]
    firsts, lasts = ([int(one[end], 16) for one in asked] for end in ("fromBlock", "toBlock"))
    assert firsts == [1, *(end + 1 for end in lasts[:-1])]
    assert (len(asked), lasts[0], lasts[-1]) == (goes, LOG_BLOCKS_MAX, last)


def test_a_node_that_is_behind_has_seen_no_use_yet(node: Node, chain: Chain) -> None:
    assert chain.authorization_used(PAYER, NONCE, from_block=113) is None
    assert "eth_getLogs" not in node.methods()


@pytest.mark.parametrize(
    "answer",
    [
        *(None, {}, ["text"], [{}]),
        [used_log(address=OTHER)],
        [used_log(topics=[USED, topic(OTHER), NONCE])],
        [used_log(transactionHash=None)],
    ],
)
def test_logs_that_were_not_asked_for_are_no_verdict(node: Node, chain: Chain, answer: Any) -> None:
    node.results["eth_getLogs"] = answer
    with pytest.raises(ChainAway):
        chain.authorization_used(PAYER, NONCE, from_block=100)


@pytest.mark.parametrize("length", [0, 1, 64, 65, 96, 200])
def test_a_contract_wallet_is_asked_whether_it_signed(
    node: Node, chain: Chain, length: int
) -> None:
    node.results["eth_call"] = MAGIC
    signature = bytes(range(length))
    assert chain.is_valid_signature(PAYER, DIGEST, signature)
    data = bytes.fromhex(node.params_of("eth_call")[0]["data"][2:])
    assert data[:4] == keccak(text="isValidSignature(bytes32,bytes)")[:4]
    assert (data[4:36], int.from_bytes(data[36:68])) == (DIGEST, 64)
    assert int.from_bytes(data[68:100]) == length
    assert data[100 : 100 + length] == signature
    assert len(data) == 100 + (length + 31) // 32 * 32
    assert int(node.params_of("eth_call")[0]["gas"], 16) == 3_000_000


@pytest.mark.parametrize("answer", ["0x", "0x1626ba7e", f"{MAGIC}00", amount(0), amount(1)])
def test_a_wallet_that_does_not_say_the_word_has_not_signed(
    node: Node, chain: Chain, answer: str
) -> None:
    node.results["eth_call"] = answer
    assert not chain.is_valid_signature(PAYER, DIGEST, b"x" * 65)


def test_a_wallet_that_reverts_has_not_signed(node: Node, chain: Chain) -> None:
    node.faults["eth_call"] = (200, REVERT)
    assert not chain.is_valid_signature(PAYER, DIGEST, b"x" * 65)


@pytest.mark.parametrize("answer", [None, 5, "text", "0x1"])
def test_a_wallets_answer_of_the_wrong_form_is_no_verdict(
    node: Node, chain: Chain, answer: Any
) -> None:
    node.results["eth_call"] = answer
    with pytest.raises(ChainAway):
        chain.is_valid_signature(PAYER, DIGEST, b"x" * 65)


def test_no_address_of_a_node_is_in_an_error(node: Node, chain: Chain) -> None:
    node.faults["eth_chainId"] = (500, "down")
    with pytest.raises(ChainAway) as away:
        chain.head()
    assert "key" not in away.value.message
