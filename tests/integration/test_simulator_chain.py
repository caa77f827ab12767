"""The simulated chain by JSON-RPC: what a node answers, and how transactions get into blocks."""

from typing import Any

import pytest

from deploy.simulator.signing import Authorization, Domain, digest_of, sign_authorization
from deploy.simulator.wallet import address_of, key_named
from tests.x402_harness import AMOUNT, BASE_SEPOLIA, OTHER, PAYER, PAYER_KEY, SHOP

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
AUTHORIZATION_USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
NOWHERE = f"0x{'ab' * 32}"


def topic(address: str) -> str:
    return f"0x{address[2:].lower():0>64}"


def test_it_says_which_chain_it_is(x402):
    assert (x402.rpc("eth_chainId"), x402.rpc("net_version")) == ("0x2105", "8453")
    usdc = x402.network.usdc
    assert (x402.rpc("eth_getCode", usdc, "latest"), x402.rpc("eth_getCode", SHOP, "latest")) == (
        "0x60806040",
        "0x",
    )
    shown = x402.simulator.get("/sim/chain").json()
    assert (shown["chain_id"], shown["usdc"], shown["waiting"]) == (8453, usdc, [])
    assert shown["rpc_calls"]["eth_getCode"] >= 2
    x402.reset(BASE_SEPOLIA)
    assert x402.rpc("eth_chainId") == "0x14a34"
    assert x402.rpc("eth_getCode", usdc, "latest") == "0x"


def test_a_plain_transfer_has_a_receipt_with_its_log_and_gains_confirmations(x402):
    sent = x402.transfer(AMOUNT)
    number = hex(sent["block_number"])
    receipt = x402.rpc("eth_getTransactionReceipt", sent["transaction"])
    usdc = x402.network.usdc.lower()
    same = {"transactionHash": sent["transaction"], "blockNumber": number, "from": PAYER.lower()}
    assert receipt.items() >= (same | {"status": "0x1", "to": usdc}).items()
    (log,) = receipt["logs"]
    assert (log["address"], log["topics"]) == (usdc, [TRANSFER, topic(PAYER), topic(SHOP)])
    assert (int(log["data"], 16), log["logIndex"], log["removed"]) == (AMOUNT, "0x0", False)
    found = x402.rpc("eth_getTransactionByHash", sent["transaction"])
    data = f"0xa9059cbb{topic(SHOP)[2:]}{AMOUNT:064x}"
    assert (found["hash"], found["to"], found["input"]) == (sent["transaction"], usdc, data)
    assert found["blockHash"] == receipt["blockHash"] == log["blockHash"]
    block = x402.block(number)
    assert (block["hash"], block["transactions"]) == (found["blockHash"], [sent["transaction"]])
    assert x402.mine(12) == sent["block_number"] + 12
    assert int(x402.rpc("eth_blockNumber"), 16) == sent["block_number"] + 12
    newest = x402.block("latest")
    assert int(newest["timestamp"], 16) >= int(block["timestamp"], 16)
    assert x402.block(hex(sent["block_number"] + 13)) is None


def test_one_transaction_can_have_several_transfers_through_a_router(x402):
    router = address_of(key_named("router"))
    sent = x402.transfer(1, 2, 3, router=router)
    receipt = x402.rpc("eth_getTransactionReceipt", sent["transaction"])
    assert (receipt["to"], receipt["from"]) == (router.lower(), PAYER.lower())
    assert [int(log["data"], 16) for log in receipt["logs"]] == [1, 2, 3]
    assert [log["logIndex"] for log in receipt["logs"]] == ["0x0", "0x1", "0x2"]
    assert x402.balance(SHOP) == 6


def test_a_transaction_can_move_what_is_not_ours_or_not_usdc(x402):
    fake = address_of(key_named("a token that claims to be USDC"))
    moves = [
        {"to": SHOP, "amount": "5"},
        {"to": OTHER, "amount": "7"},
        {"to": SHOP, "amount": 9, "token": fake},
        {"to": SHOP, "amount": "11", "from": OTHER},
    ]
    body = {"from": PAYER, "transfers": moves}
    sent = x402.simulator.control("chain/transfers", **body)
    logs = x402.rpc("eth_getTransactionReceipt", sent["transaction"])["logs"]
    usdc = x402.network.usdc.lower()
    assert [one["address"] for one in logs] == [usdc, usdc, fake.lower(), usdc]
    assert logs[3]["topics"][1] == topic(OTHER)
    assert (x402.balance(SHOP), x402.balance(OTHER)) == (16, 0)


def test_a_failed_transaction_has_a_receipt_that_says_so_and_moves_nothing(x402):
    sent = x402.transfer(AMOUNT, fails=True)
    receipt = x402.rpc("eth_getTransactionReceipt", sent["transaction"])
    assert (sent["status"], receipt["status"], receipt["logs"]) == ("failed", "0x0", [])
    assert x402.balance(SHOP) == 0


def test_a_transaction_can_wait_and_be_mined_or_dropped(x402):
    waiting, dropped = (x402.transfer(AMOUNT, wait=True) for _ in range(2))
    assert (waiting["status"], waiting["block_number"]) == ("waiting", None)
    assert x402.rpc("eth_getTransactionReceipt", waiting["transaction"]) is None
    found = x402.rpc("eth_getTransactionByHash", waiting["transaction"])
    assert (found["blockHash"], found["blockNumber"], found["transactionIndex"]) == (None,) * 3
    gone = {"transaction": dropped["transaction"]}
    assert x402.simulator.control("chain/drop", **gone)["waiting"] == [waiting["transaction"]]
    number = x402.mine(3) - 2
    receipt = x402.rpc("eth_getTransactionReceipt", waiting["transaction"])
    assert (receipt["blockNumber"], receipt["status"]) == (hex(number), "0x1")
    assert x402.rpc("eth_getTransactionByHash", dropped["transaction"]) is None
    assert x402.simulator.post("/sim/chain/drop", gone).status_code == 404
    mined = {"transaction": waiting["transaction"]}
    assert x402.simulator.post("/sim/chain/drop", mined).status_code == 404


def test_a_settlement_has_both_logs_and_the_contracts_input(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    transaction = x402.settle(claim).json()["transaction"]
    receipt = x402.rpc("eth_getTransactionReceipt", transaction)
    nonce = claim["paymentPayload"]["payload"]["authorization"]["nonce"]
    assert [log["topics"] for log in receipt["logs"]] == [
        [AUTHORIZATION_USED, topic(PAYER), nonce],
        [TRANSFER, topic(PAYER), topic(SHOP)],
    ]
    assert receipt["from"] == x402.simulator.get("/sim/chain").json()["facilitator"]
    found = x402.rpc("eth_getTransactionByHash", transaction)
    assert found["input"].startswith("0xe3ee160e")
    assert nonce[2:] in found["input"]


def test_logs_are_found_by_address_topics_and_range(x402):
    first = x402.transfer(1)["block_number"]
    x402.transfer(2, to=OTHER)
    x402.transfer(3, wait=True)
    last = x402.mine(5)

    def amounts(**wanted: Any) -> list[int]:
        filtered = {"fromBlock": hex(first), "toBlock": "latest"} | wanted
        return [int(log["data"], 16) for log in x402.rpc("eth_getLogs", filtered)]

    usdc = x402.network.usdc
    assert amounts() == amounts(address=usdc) == amounts(address=[OTHER, usdc.lower()]) == [1, 2, 3]
    assert amounts(topics=[TRANSFER, None, topic(SHOP)]) == [1, 3]
    assert amounts(topics=[TRANSFER, topic(PAYER), [topic(OTHER), topic(PAYER)]]) == [2]
    assert amounts(topics=[[], [topic(OTHER)]]) == amounts(address=OTHER) == []
    assert amounts(topics=[AUTHORIZATION_USED]) == amounts(topics=[None] * 4) == []
    assert amounts(fromBlock=hex(first + 1), toBlock=hex(first + 1)) == [2]
    assert amounts(fromBlock=hex(last)) == []
    everything = {"fromBlock": "earliest", "toBlock": "latest"}
    expected = {"code": -32614, "message": "eth_getLogs is limited to a 10,000 range"}
    assert x402.ask("eth_getLogs", everything)["error"] == expected
    backwards = {"fromBlock": hex(last), "toBlock": hex(first)}
    assert x402.ask("eth_getLogs", backwards)["error"]["code"] == -32602


def test_the_state_of_an_authorization_is_read_as_of_a_block(x402):
    nonce = f"0x{'5a' * 32}"
    used = x402.simulator.control("chain/nonces", **{"from": PAYER, "nonce": nonce})
    data = f"0xe94a0102{topic(PAYER)[2:]}{nonce[2:]}"
    call = {"to": x402.network.usdc, "input": data}
    now, before = (
        x402.rpc("eth_call", call, tag) for tag in ("latest", hex(used["block_number"] - 1))
    )
    assert (int(now, 16), int(before, 16)) == (1, 0)
    future = x402.ask("eth_call", call, hex(used["block_number"] + 1))["error"]
    assert future == {"code": -32000, "message": "header not found"}


def test_a_contract_wallet_says_whose_signature_it_takes(x402):
    wallet = address_of(key_named("wallet"))
    usdc = x402.network.usdc
    domain = Domain("USD Coin", "2", 8453, usdc)
    authorization = Authorization(wallet, SHOP, 1, 0, 2**40, b"\x01" * 32)
    digest = digest_of(authorization, domain).hex()

    def is_valid(signer: str, to: str = wallet) -> Any:
        signature = sign_authorization(authorization, domain, key=signer)[2:]
        body = f"0x1626ba7e{digest}{64:064x}{65:064x}{signature:0<192}"
        return x402.ask("eth_call", {"to": to, "data": body}, "latest")

    assert is_valid(PAYER_KEY)["result"] == "0x"
    x402.simulator.control("chain/wallets", address=wallet, owner=PAYER)
    assert is_valid(PAYER_KEY)["result"] == f"0x1626ba7e{'00' * 28}"
    assert is_valid(key_named("stranger"))["result"] == f"0xffffffff{'00' * 28}"
    assert is_valid(PAYER_KEY, to=usdc)["error"]["message"] == "execution reverted"
    x402.simulator.control("chain/wallets", address=wallet, owner=PAYER, is_delegated=True)
    delegated = f"0xef0100{PAYER[2:].lower()}"
    assert x402.rpc("eth_getCode", wallet, "latest") == delegated


def test_the_token_describes_itself_and_reverts_what_it_does_not_know(x402):
    usdc = x402.network.usdc

    def call(data: str, tag: str = "latest") -> Any:
        return x402.ask("eth_call", {"to": usdc, "data": data}, tag)

    name, version = (
        bytes.fromhex(call(data)["result"][2:]) for data in ("0x06fdde03", "0x54fd4d50")
    )
    assert (name[64:72], version[64:65]) == (b"USD Coin", b"2")
    assert int(call("0x313ce567")["result"], 16) == 6
    reverted = {"code": 3, "message": "execution reverted", "data": "0x"}
    assert call("0x12345678")["error"] == call("0x70a08231")["error"] == reverted
    old = hex(x402.mine(2) - 1)
    assert call(f"0x70a08231{topic(SHOP)[2:]}", old)["error"]["code"] == -32000


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ({"method": "eth_sendTransaction", "params": [], "id": 1}, -32601),
        ({"method": "eth_getTransactionReceipt", "params": [], "id": 1}, -32602),
        ({"method": "eth_getTransactionReceipt", "params": ["0x12"], "id": 1}, -32602),
        ({"method": "eth_getTransactionReceipt", "params": [7], "id": 1}, -32602),
        ({"method": "eth_getTransactionReceipt", "params": {"hash": NOWHERE}, "id": 1}, -32602),
        ({"method": "eth_getBlockByNumber", "params": ["latest"], "id": 1}, -32602),
        ({"method": "eth_getBlockByNumber", "params": ["latest", 0], "id": 1}, -32602),
        ({"method": "eth_getBlockByNumber", "params": ["0x01", False], "id": 1}, -32602),
        ({"method": "eth_getBlockByNumber", "params": [[], False], "id": 1}, -32602),
        ({"method": "eth_getLogs", "params": ["all"], "id": 1}, -32602),
        ({"method": "eth_getLogs", "params": [{"topics": "0x"}], "id": 1}, -32602),
        ({"method": "eth_getLogs", "params": [{"address": 7}], "id": 1}, -32602),
        ({"method": "eth_call", "params": ["0x"], "id": 1}, -32602),
        ({"method": "eth_call", "params": [{"to": SHOP, "data": "0x1"}], "id": 1}, -32602),
        ({"method": 7, "id": 1}, -32600),
        ("eth_chainId", -32600),
    ],
)
def test_a_bad_call_gets_the_error_of_a_real_node(x402, call, code):
    answer = x402.simulator.post("/rpc", call)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)


def test_batches_are_answered_in_order_and_notifications_not_at_all(x402):
    calls = [
        {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId", "params": []},
        {"jsonrpc": "2.0", "method": "eth_chainId", "params": []},
        {"jsonrpc": "2.0", "id": 2, "method": "eth_getTransactionReceipt", "params": [NOWHERE]},
        {"jsonrpc": "2.0", "id": None, "method": "eth_unheardOf"},
        7,
    ]
    answers = x402.simulator.post("/rpc", calls).json()
    assert answers[:2] == [
        {"jsonrpc": "2.0", "id": "a", "result": "0x2105"},
        {"jsonrpc": "2.0", "id": 2, "result": None},
    ]
    assert [one["error"]["code"] for one in answers[2:]] == [-32601, -32600]
    assert x402.simulator.post("/rpc", calls[1:2]).text == ""
    assert x402.simulator.post("/rpc", calls[1]).text == ""
    assert x402.simulator.post("/rpc", []).json()["error"]["code"] == -32600
    assert x402.simulator.post("/rpc", [calls[0]] * 1001).json()["error"]["code"] == -32600
    assert x402.simulator.post("/rpc", data=b"{").json()["error"]["code"] == -32700
    assert x402.simulator.get("/rpc").status_code == 405


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("reset", {"chain_id": 1}),
        ("reset", {"chain_id": [8453]}),
        ("reset", {"now": -1}),
        ("balances", {"address": "0x12", "amount": "1"}),
        ("balances", {"address": SHOP, "amount": "-1"}),
        ("balances", {"address": SHOP, "amount": 1.5}),
        ("balances", {"address": SHOP, "amount": str(2**256)}),
        ("wallets", {"address": SHOP}),
        ("nonces", {"from": SHOP, "nonce": "0x12"}),
        ("transfers", {"from": SHOP, "to": OTHER, "amounts": []}),
        ("transfers", {"from": SHOP, "to": OTHER, "amounts": "5"}),
        ("transfers", {"from": SHOP, "transfers": [5]}),
        ("transfers", {"from": SHOP, "to": OTHER, "amounts": ["1"], "fails": 1}),
        ("mine", {"blocks": 0}),
        ("drop", {}),
    ],
)
def test_a_senseless_control_call_is_refused_and_the_chain_stays(x402, path, body):
    before = x402.simulator.get("/sim/chain").json()
    assert x402.simulator.post(f"/sim/chain/{path}", body).status_code == 400
    after = x402.simulator.get("/sim/chain").json()
    assert (after["block_number"], after["chain_id"]) == (before["block_number"], 8453)
