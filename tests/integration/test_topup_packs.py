"""Credit packs: shown to anyone, sold by x402, by transfer and in a coin (behaviour 7.7)."""

import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shared.config import ProviderSettings
from shared.ledger.terms import TermsCache
from shared.payments import polling
from shared.payments.intake import drain
from shared.wiring import make_intake
from tests.front_door import rows, settings_in_force
from tests.harness import unique
from tests.shop import M, Shop
from tests.x402_harness import SHOP

DEEP = 12
PREMIUM = {"packId": "premium"}
PURCHASES = (
    "SELECT pack_id, payment_reference, amount_micro, lot_id FROM credit_lot_purchases"
    " WHERE account_id = :id ORDER BY created_at"
)


def test_the_packs_are_shown_to_anyone_98(shop: Shop) -> None:
    shown = shop.api.get("/api/billing/packs", headers={})
    assert shown.status_code == 200
    assert shown.headers["RateLimit-Limit"] == "100"
    assert [
        (one["packId"], one["priceUsd"], one["creditMicro"], one["bonusBps"])
        for one in shown.json()["packs"]
    ] == [
        ("starter", "5.00", "5000000", 0),
        ("standard", "10.00", "10500000", 500),
        ("premium", "25.00", "27500000", 1000),
    ]


def test_the_mode_that_is_in_force_is_shown(shop: Shop) -> None:
    """The reference always said shadow (14.1)."""
    told = shop.api.get("/api/billing/pricing", headers={}).json()
    assert told["billingMode"] == "live"
    with settings_in_force(shop.api, billing_mode="soft"):
        assert shop.api.get("/api/billing/pricing", headers={}).json()["billingMode"] == "soft"


@pytest.mark.parametrize(
    ("pack", "price", "credit"),
    [("starter", 5, 5 * M), ("standard", 10, 10_500_000), ("premium", 25, 27_500_000)],
)
def test_a_pack_is_sold_at_its_price(shop: Shop, pack: str, price: int, credit: int) -> None:
    """Behaviours 98, 100: the bonus is credited, and the sale is noted with its lot."""
    asked = shop.ask({"packId": pack})
    told = asked.json()
    assert (told["amountMicro"], told["creditMicro"]) == (str(price * M), str(credit))
    assert (told["packId"], told["accepts"][0]["maxAmountRequired"]) == (pack, str(price * M))
    paid = shop.post({"packId": pack}, **shop.sign(asked))
    assert paid.status_code == 201, paid.text
    assert (shop.balance(), shop.x402.balance(SHOP)) == (credit, price * M)
    [one] = paid.json()["credits"]
    assert (one["amountMicro"], one["basis"]) == (str(credit), "pack")
    reference, lot = paid.json()["providerPaymentId"], paid.json()["lotId"]
    assert rows(shop.api, PURCHASES, id=shop.account) == [(pack, reference, credit, lot)]


def test_a_pack_paid_below_its_price_is_not_sold_172(shop: Shop) -> None:
    """Behaviour W49: the reference sold the premium pack for one micro-dollar."""
    asked = shop.ask(PREMIUM)
    cheap = shop.post(PREMIUM, **shop.sign(asked, value="1"))
    assert cheap.status_code == 402
    assert cheap.json()["creditMicro"] == "27500000"
    sent = shop.x402.transfer(25 * M - 1)["transaction"]
    shop.x402.mine(DEEP)
    body = shop.claim(sent, packId="premium")
    del body["amountUsd"]
    short = shop.post(body)
    assert (short.status_code, short.json()["code"]) == (402, "amount_too_low")
    assert (shop.balance(), rows(shop.api, PURCHASES, id=shop.account)) == (0, [])
    assert shop.post(shop.claim(sent)).status_code == 201  # still worth what it is
    assert shop.balance() == 25 * M - 1


def test_a_top_up_of_a_packs_price_is_not_the_pack(shop: Shop) -> None:
    assert shop.pay({"amountUsd": "25.00"}).status_code == 201
    assert (shop.balance(), rows(shop.api, PURCHASES, id=shop.account)) == (25 * M, [])


@pytest.mark.parametrize("over", [0, 1, 40 * M])
def test_a_transfer_above_the_price_is_the_pack_and_the_rest(shop: Shop, over: int) -> None:
    sent = shop.x402.transfer(25 * M + over)["transaction"]
    body = shop.claim(sent, packId="premium")
    del body["amountUsd"]
    early = shop.post(body)
    assert (early.status_code, shop.balance()) == (202, 0)
    shop.x402.mine(DEEP)
    shop.watch()
    assert shop.balance() == 27_500_000 + over
    [sale] = rows(shop.api, PURCHASES, id=shop.account)
    assert sale[:3] == ("premium", sent, 27_500_000 + over)
    assert shop.post(body).status_code == 409


def test_a_quote_of_a_pack_holds_when_the_price_changes(shop: Shop) -> None:
    asked = shop.ask(PREMIUM)
    dearer = json.dumps({"premium": {"priceMicro": 99 * M, "bonusBps": 0}})
    with settings_in_force(shop.api, credit_packs=dearer):
        assert shop.ask(PREMIUM).json()["amountMicro"] == str(99 * M)
        assert shop.post(PREMIUM, **shop.sign(asked)).status_code == 201
    assert shop.balance() == 27_500_000


def test_an_unknown_pack_is_a_mistake_98(shop: Shop) -> None:
    unknown = shop.post({"packId": "gold"})
    assert (unknown.status_code, unknown.json()["code"]) == (400, "unknown_pack")
    assert unknown.json()["details"] == {"packs": ["premium", "standard", "starter"]}
    assert shop.post({"packId": "gold'--"}).status_code == 400
    bearer = shop.api.member(shop.account)
    bought = shop.api.post(
        "/api/billing/packs/gold/purchase", {"payCurrency": "btc"}, headers=bearer
    )
    assert (bought.status_code, bought.json()["code"]) == (400, "unknown_pack")


@pytest.mark.parametrize(
    ("changes", "broken"),
    [({"amount_micro": 0}, "amount"), ({"account_id": "nobody"}, "account"), ({}, "key")],
)
def test_the_table_of_sales_refuses_what_cannot_be_100(
    shop: Shop, changes: dict[str, Any], broken: str
) -> None:
    """A second sale of the same key, an amount of zero, an account that is none."""
    assert shop.pay({"packId": "starter"}).status_code == 201
    names = "id, account_id, pack_id, payment_reference, idempotency_key, lot_id, amount_micro"
    statement = (
        f"INSERT INTO credit_lot_purchases ({names})"
        " SELECT :new, {account_id}, pack_id, payment_reference, {key}, lot_id, {amount_micro}"
        " FROM credit_lot_purchases WHERE account_id = :id"
    )
    columns = {"account_id": "account_id", "amount_micro": "amount_micro", "key": ":new"}
    columns |= {name: f"'{value}'" if value else "0" for name, value in changes.items()}
    columns |= {} if changes else {"key": "idempotency_key"}
    with pytest.raises(IntegrityError), shop.api.database.transaction() as tx:
        tx.run(text(statement.format(**columns)), new=unique(broken), id=shop.account)


def test_a_pack_is_sold_in_a_coin_too(shop: Shop) -> None:
    """POST /packs/{id}/purchase: the provider says that it is paid, and the pack is credited."""
    bearer = shop.api.member(shop.account)
    made = shop.api.post(
        "/api/billing/packs/premium/purchase", {"payCurrency": "usdcbase"}, headers=bearer
    )
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["priceAmount"], told["status"]) == ("25.00", "waiting")
    provider_id = int(told["providerPaymentId"])
    shop.x402.simulator.play(provider_id, "happy")
    given = {name.lower(): value for name, value in shop.premises.settings.items()}
    settings = ProviderSettings(database_url=shop.premises.url, **given)
    database = shop.premises.database
    intake = make_intake(settings, database, TermsCache(database))
    assert polling.look(database, intake.provider, str(provider_id))
    drain(intake)
    assert shop.balance() == 27_500_000
    [sale] = rows(shop.api, PURCHASES, id=shop.account)
    assert sale[:3] == ("premium", str(provider_id), 27_500_000)
    assert shop.payment(told["paymentId"])["status"] == "finished"
