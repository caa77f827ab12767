"""Transfers that were made first and are claimed by their hash (contract 7, behaviours W31 to W35).

Who tries to get another's transfer, the same one twice, or in the way of somebody else's?
"""

import secrets
from functools import partial
from typing import Any

import pytest

from deploy.simulator.wallet import address_of, key_named, sign_claim
from shared.payments.x402.claims import claim_text
from tests.front_door import rows, snapshot
from tests.shop import FIVE, M, Shop, at_once
from tests.x402_harness import OTHER, PAYER, PAYER_KEY, SHOP

DEEP = 12
THIEF_KEY = key_named("thief")
THIEF = address_of(THIEF_KEY)
ROUTER = f"0x{'70' * 20}"


def deep_transfer(shop: Shop, *amounts: int, **how: Any) -> str:
    """Return the hash of a transfer to the shop that is deep enough in the chain."""
    sent: str = shop.x402.transfer(*amounts or (5 * M,), **how)["transaction"]
    shop.x402.mine(DEEP)
    return sent


def mixed_case(transaction: str) -> str:
    return f"0x{transaction[2:].upper()}"


def test_a_transfer_is_claimed_by_its_sender_for_one_account(shop: Shop) -> None:
    """Behaviours 87, 162: eleven confirmations are too few, the twelfth credits."""
    sent = shop.x402.transfer(5 * M)["transaction"]
    shop.x402.mine(DEEP - 1)
    early = shop.post(shop.claim(sent))
    assert early.status_code == 202, early.text
    assert early.json()["settlement"] == "settlement_pending"
    assert early.json()["status"] == "confirming"
    shop.watch()
    assert shop.balance() == 0
    shop.x402.mine()
    shop.watch()
    shop.watch()
    assert shop.balance() == 5 * M
    shown = shop.payment(early.json()["paymentId"])
    assert (shown["status"], shown["creditedMicro"]) == ("finished", "5000000")
    again = shop.post(shop.claim(sent))
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    thief = shop.api.funded_account(0)
    stolen = shop.post(shop.claim(sent, account=thief), account=thief)
    assert (stolen.status_code, stolen.json()["code"]) == (409, "payment_replayed")
    assert "details" not in stolen.json()
    assert shop.balance(thief) == 0


def test_a_deep_transfer_is_credited_at_once_whatever_the_body_says_of_it(shop: Shop) -> None:
    """Behaviour W32: the amount in the body is only text; what the chain shows is credited."""
    paid = shop.post(shop.claim(deep_transfer(shop, 7 * M), amount="999999999999"))
    assert paid.status_code == 201, paid.text
    told = paid.json()
    assert (told["settlement"], told["amountUsdMicro"]) == ("settled", "7000000")
    row = "SELECT pay_amount, actually_paid, payer FROM crypto_payments WHERE id = :id"
    [(asked, came, payer)] = rows(shop.api, row, id=told["paymentId"])
    assert (float(asked), float(came), payer) == (7.0, 7.0, PAYER.lower())


def test_one_hash_in_two_spellings_at_once_is_credited_once(shop: Shop) -> None:
    """Behaviours W31 and 162."""
    sent = deep_transfer(shop)
    bodies = [shop.claim(sent), shop.claim(sent) | {"txHash": mixed_case(sent)}] * 4
    answers = at_once(*[partial(shop.post, body) for body in bodies])
    assert [one.status_code for one in answers].count(201) == 1
    assert {one.status_code for one in answers} <= {201, 409, 503}
    assert shop.balance() == 5 * M


def test_one_transfer_for_two_accounts_at_once_is_credited_once(shop: Shop) -> None:
    """Behaviour 162: even a sender who signs for both gets it once."""
    other, sent = shop.api.funded_account(0), deep_transfer(shop)
    calls = [
        partial(shop.post, shop.claim(sent, account=account), account)
        for account in (shop.account, other) * 3
    ]
    answers = at_once(*calls)
    assert sorted(one.status_code for one in answers) == [201, *[409] * 5]
    assert sorted([shop.balance(), shop.balance(other)]) == [0, 5 * M]


def test_a_transfer_is_not_claimed_for_another_account_than_was_signed(shop: Shop) -> None:
    """Behaviour W32."""
    sent, thief = deep_transfer(shop), shop.api.funded_account(0)
    stolen = shop.post(shop.claim(sent), account=thief)
    assert (stolen.status_code, stolen.json()["code"]) == (403, "claim_not_signed")
    assert shop.post(shop.claim(sent)).status_code == 201
    assert (shop.balance(), shop.balance(thief)) == (5 * M, 0)


@pytest.mark.parametrize("signature", ["0x00", "0x", f"0x{'11' * 65}", f"0x{'ff' * 65}", None])
def test_a_transfer_is_not_claimed_by_who_did_not_send_it(
    shop: Shop, signature: str | None
) -> None:
    """Behaviour W32: a made-up signature, none, or that of somebody else."""
    sent = deep_transfer(shop)
    before = snapshot(shop.api, shop.account)
    body = shop.claim(sent, key=THIEF_KEY)
    refused = shop.post(body if signature is None else body | {"signature": signature})
    assert refused.status_code == (400 if signature == "0x" else 403), refused.text
    assert snapshot(shop.api, shop.account) == before
    assert shop.settlements() == []
    without = shop.claim(sent)
    del without["signature"]
    assert shop.post(without).status_code == 403
    assert shop.post(shop.claim(sent)).status_code == 201


def test_who_sent_nothing_in_a_transaction_gets_nothing_of_it(shop: Shop) -> None:
    sent = deep_transfer(shop)
    refused = shop.post(shop.claim(sent, key=THIEF_KEY) | {"from": THIEF})
    assert (refused.status_code, refused.json()["code"]) == (402, "no_transfer")
    assert shop.settlements() == []


def test_a_small_transfer_in_the_same_transaction_does_not_stand_in_anothers_way(
    shop: Shop,
) -> None:
    """Who gets a transfer of his own into another's transaction (a bundle of wallets, or another's
    authorization sent along with it) and claims it first must not take the other's credit."""
    moves = [
        {"from": PAYER, "to": SHOP, "amount": str(100 * M)},
        {"from": THIEF, "to": SHOP, "amount": "1000"},
    ]
    control = shop.x402.simulator.control
    sent = control("chain/transfers", **{"from": THIEF, "transfers": moves, "router": ROUTER})
    shop.x402.mine(DEEP)
    thief, transaction = shop.api.funded_account(0), sent["transaction"]
    body = shop.claim(transaction, account=thief, key=THIEF_KEY)
    first = shop.post(body | {"from": THIEF, "amountUsd": "0.001"}, thief)
    assert first.status_code == 201, first.text
    assert first.json()["amountUsdMicro"] == "1000"
    own = shop.post(shop.claim(transaction) | {"amountUsd": "100.00"})
    assert own.status_code == 201, own.text
    assert (shop.balance(), shop.balance(thief)) == (100 * M, 1_000)
    for account, key, sender in ((shop.account, PAYER_KEY, PAYER), (thief, THIEF_KEY, THIEF)):
        again = shop.post(
            shop.claim(transaction, account, key) | {"from": sender, "amountUsd": "0.001"}, account
        )
        assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")


def test_all_transfers_of_a_sender_are_summed_through_a_router_too(shop: Shop) -> None:
    """Behaviour W34: several logs, and the transaction is to another contract than the token."""
    paid = shop.post(shop.claim(deep_transfer(shop, 2 * M, M, 2 * M, router=ROUTER)))
    assert paid.status_code == 201, paid.text
    assert shop.balance() == 5 * M


def test_only_transfers_of_the_token_to_us_count(shop: Shop) -> None:
    moves = [
        {"to": SHOP, "amount": str(M)},
        {"to": OTHER, "amount": str(50 * M)},
        {"to": SHOP, "amount": str(70 * M), "token": f"0x{'bad0' * 10}"},
        {"to": SHOP, "amount": str(90 * M), "from": OTHER},
    ]
    sent = shop.x402.simulator.control("chain/transfers", **{"from": PAYER, "transfers": moves})
    shop.x402.mine(DEEP)
    refused = shop.post(shop.claim(sent["transaction"]))
    assert (refused.status_code, refused.json()["code"]) == (402, "amount_too_low")
    assert refused.json()["details"] == {"paidMicro": "1000000", "requiredMicro": "5000000"}
    assert shop.post(shop.claim(sent["transaction"], amountUsd="1.00")).status_code == 201
    assert shop.balance() == M


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"fails": True}, "transaction_failed"),
        ({"to": OTHER}, "no_transfer"),
        ({"wait": True}, "transaction_not_found"),
    ],
)
def test_a_transaction_that_brought_nothing_is_not_credited(
    shop: Shop, how: dict[str, Any], code: str
) -> None:
    sent = shop.x402.transfer(5 * M, **how)["transaction"]
    refused = shop.post(shop.claim(sent))
    assert (refused.status_code, refused.json()["code"]) == (402, code)
    assert (shop.settlements(), shop.balance()) == ([], 0)


def test_a_transaction_that_nobody_sent_is_not_found(shop: Shop) -> None:
    refused = shop.post(shop.claim(f"0x{secrets.token_hex(32)}"))
    assert (refused.status_code, refused.json()["code"]) == (402, "transaction_not_found")


def test_a_claim_on_a_chain_that_is_not_ours_is_a_mistake(shop: Shop) -> None:
    """Behaviour 99: chain 0, and any that is not configured."""
    sent = deep_transfer(shop)
    refused = shop.post(shop.claim(sent, chainId=1))
    assert (refused.status_code, refused.json()["code"]) == (400, "unsupported_network")
    assert refused.json()["details"] == {"chainIds": [8453]}
    assert shop.post(shop.claim(sent, chainId=0)).status_code == 400


def test_a_claim_whose_transaction_left_the_chain_waits_and_is_free_in_the_end(shop: Shop) -> None:
    """A reorganisation: the transaction is gone; it is credited if it comes back, else free."""
    x402 = shop.x402
    sent = x402.transfer(5 * M)["transaction"]
    early = shop.post(shop.claim(sent))
    assert early.status_code == 202
    x402.reset()
    x402.mine(DEEP)
    shop.watch()
    assert shop.settlements() == [("confirming", "new", True)]
    x402.simulator.control("clock", ahead_seconds=4_000)
    x402.mine()
    shop.watch()
    assert shop.settlements() == [("refused", "done", False)]
    shown = shop.payment(early.json()["paymentId"])
    assert (shown["status"], shop.balance()) == ("failed", 0)


def test_what_a_transaction_brings_is_looked_at_again_when_it_is_deep(shop: Shop) -> None:
    """Mined again after a reorganisation, a contract's transaction may move less than before."""
    sent = shop.x402.transfer(5 * M)["transaction"]
    assert shop.post(shop.claim(sent)).status_code == 202
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            f"UPDATE x402_settlements SET value = '5000001' WHERE transaction_hash = '{sent}'"
        )
    shop.x402.mine(DEEP)
    shop.watch()
    assert shop.settlements() == [("refused", "done", False)]
    assert shop.balance() == 0
    assert shop.post(shop.claim(sent)).status_code == 201
    assert shop.balance() == 5 * M


FAULTS = ["down", "error", "html", "rate_limited", "garbage", "wrong_types", "error_object"]


@pytest.mark.parametrize("mode", FAULTS)
def test_a_node_that_cannot_be_asked_is_not_the_payers_fault(shop: Shop, mode: str) -> None:
    """Behaviours W34 and 164: 503, nothing is kept, and the same request succeeds later."""
    sent = deep_transfer(shop)
    control = shop.x402.simulator.control
    control("rpc/faults", mode=mode, on="eth_getTransactionReceipt")
    away = shop.post(shop.claim(sent))
    control("rpc/faults", mode="none")
    assert (away.status_code, away.json()["code"]) == (503, "chain_unavailable"), away.text
    assert int(away.headers["Retry-After"]) > 0
    assert shop.settlements() == []
    assert shop.post(shop.claim(sent)).status_code == 201
    assert shop.balance() == 5 * M


@pytest.mark.parametrize("is_credited", [False, True])
def test_the_transfer_of_a_settlement_claimed_by_its_hash_too_is_credited_once(
    shop: Shop, is_credited: bool
) -> None:
    """Behaviour 172: one payment credits once, by whichever way it comes."""
    if not is_credited:
        shop.x402.fault("lost_answer", on="settle", count=1)
    paid = shop.pay()
    assert paid.status_code == (201 if is_credited else 202)
    [settled] = shop.x402.settlements()
    shop.x402.mine(DEEP)
    other = shop.api.funded_account(0)
    claimed = shop.post(shop.claim(settled["transaction"], account=other), account=other)
    assert claimed.status_code == (409 if is_credited else 201), claimed.text
    shop.watch()
    shop.watch()
    assert sorted([shop.balance(), shop.balance(other)]) == [0, 5 * M]
    phase = "settled" if is_credited else "refused"
    assert shop.settlements() == [(phase, "done", is_credited)]


def test_the_same_the_other_way_round_while_both_wait(shop: Shop) -> None:
    shop.x402.fault("settlement_pending", count=1)
    paid = shop.pay()
    assert (paid.status_code, paid.json()["settlement"]) == (202, "settlement_pending")
    shop.x402.mine()
    claimed = shop.post(shop.claim(paid.json()["transaction"]))
    assert claimed.status_code == 202, claimed.text
    shop.x402.mine(DEEP)
    shop.watch()
    shop.watch()
    assert shop.balance() == 5 * M
    assert sorted(shop.settlements()) == [("refused", "done", False), ("settled", "done", True)]


def test_a_contract_wallet_claims_what_it_sent(shop: Shop) -> None:
    """EIP-1271: the wallet itself says whether its owner signed for it."""
    wallet = f"0x{secrets.token_hex(20)}"
    control = shop.x402.simulator.control
    control("chain/wallets", address=wallet, owner=PAYER)
    sent = control("chain/transfers", **{"from": wallet, "to": SHOP, "amounts": [str(5 * M)]})
    shop.x402.mine(DEEP)
    transaction = sent["transaction"]
    words = claim_text(transaction=transaction, account_id=shop.account)
    by_thief = {"from": wallet, "signature": sign_claim(words, THIEF_KEY)}
    assert shop.post(shop.claim(transaction) | by_thief).status_code == 403
    long = {"from": wallet, "signature": f"{sign_claim(words, PAYER_KEY)}{'00' * 64}"}
    paid = shop.post(shop.claim(transaction) | long)
    assert paid.status_code == 201, paid.text
    assert shop.balance() == 5 * M
    assert shop.post({**FIVE, **shop.claim(transaction), "from": wallet}).status_code == 409
