"""A grant is revoked: what is unspent comes back to the budget, once, and the books still close."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.campaigns.lists import Wish
from shared.campaigns.states import Action
from shared.errors import Conflict, NotFound
from shared.ledger.commands import Refund
from shared.operations.readiness import readiness
from tests.campaigns import Campaigns, M
from tests.command import arrakis, told
from tests.ledger import Ledger
from tests.reconciliation import Reconciling


@pytest.fixture
def campaigns(ledger: Ledger) -> Campaigns:
    return Campaigns(ledger)


def granted(campaigns: Campaigns, amount: int = 2 * M, **more: Any) -> tuple[str, str, str]:
    """Grant *amount* to a new wallet; return the campaign, the wallet and the grant."""
    campaign, [wallet] = campaigns.active(**more), campaigns.wallets(1)
    [made] = campaigns.granted(campaign, Wish(wallet, amount))["grants"]
    return campaign, wallet, made["grantId"]


def test_what_is_unspent_comes_back_and_what_is_spent_stays(campaigns: Campaigns) -> None:
    campaign, wallet, grant = granted(campaigns)
    ledger = campaigns.ledger
    ledger.finalize(ledger.reserve(wallet, 700_000), 500_000)
    found = campaigns.revoke(campaign, grant).unwrap()
    assert (found["status"], found["amountMicro"]) == ("revoked", "2000000")
    assert (found["revokedMicro"], found["keptMicro"]) == ("1500000", "500000")
    assert ledger.balance(wallet) == (0, 0, 0)
    assert ledger.entries(wallet)[-1] == ("refund", -1_500_000, 1_500_000, 0)
    assert campaigns.spent(campaign) == 500_000
    assert campaigns.audited(campaign)[-1] == "grant_revoke"


def test_a_repeat_changes_nothing_and_the_wallet_is_not_granted_again(
    campaigns: Campaigns,
) -> None:
    campaign, wallet, grant = granted(campaigns)
    first = campaigns.revoke(campaign, grant)
    before = campaigns.money(campaign)
    again = campaigns.revoke(campaign, grant, "another reason")
    assert (again.answer, again.is_replay) == (first.answer, True)
    assert campaigns.money(campaign) == before
    assert campaigns.audited(campaign).count("grant_revoke") == 1
    retried = campaigns.retry(campaign, grant).error
    assert isinstance(retried, Conflict)
    assert retried.code == "grant_revoked"
    [row] = campaigns.granted(campaign, Wish(wallet, M))["grants"]
    assert (row["status"], row["error"]) == ("failed", "grant_revoked")
    [other] = campaigns.wallets(1)
    campaigns.granted(campaign, Wish(other, 5 * M))
    assert campaigns.spent(campaign) == 5 * M


@pytest.mark.parametrize(("cost", "left"), [(0, "expires"), (300_000, "is spent")])
def test_what_a_hold_has_stays_with_the_hold_and_its_rest_expires(
    campaigns: Campaigns, cost: int, left: str
) -> None:
    campaign, wallet, grant = granted(campaigns, M)
    ledger = campaigns.ledger
    hold = ledger.reserve(wallet, 400_000)
    found = campaigns.revoke(campaign, grant).unwrap()
    assert (found["revokedMicro"], found["keptMicro"]) == ("600000", "400000")
    assert ledger.balance(wallet) == (0, 400_000, 0)
    ledger.sweep()
    assert ledger.finalize(hold, cost)["finalizedMicro"] == str(cost)
    assert ledger.balance(wallet) == (0, 0, 0)  # no debt, and nothing left to spend
    [(expired, clawed_back)] = ledger.rows(
        "SELECT expired_micro, clawed_back_micro FROM credit_lots WHERE account_id = :id", id=wallet
    )
    assert (expired, clawed_back) == (400_000 - cost, 600_000), left
    assert campaigns.spent(campaign) == 400_000


def test_what_had_expired_does_not_come_back(campaigns: Campaigns) -> None:
    campaign, wallet, grant = granted(campaigns, lasts_seconds=60)
    campaigns.ledger.clock.advance(seconds=61)
    found = campaigns.revoke(campaign, grant).unwrap()
    assert (found["revokedMicro"], found["keptMicro"]) == ("0", "2000000")
    assert campaigns.status(campaign) == "expired"
    assert campaigns.spent(campaign) == 2 * M
    assert campaigns.ledger.balance(wallet) == (0, 0, 0)


def test_what_an_operator_took_by_hand_is_not_told_as_revoked(campaigns: Campaigns) -> None:
    campaign, wallet, grant = granted(campaigns)
    ledger = campaigns.ledger
    ledger.sql(
        "UPDATE credit_lots SET available_micro = 1500000, consumed_micro = 500000"
        " WHERE account_id = :id",
        id=wallet,
    )
    desk = Reconciling(ledger)
    desk.check("operator_repairs")
    desk.database.dispose()
    found = campaigns.revoke(campaign, grant).unwrap()
    assert (found["revokedMicro"], found["keptMicro"]) == ("1500000", "500000")
    assert campaigns.revoke(campaign, grant).answer == found
    assert ledger.rows("SELECT spent_micro FROM credit_campaigns") == [(500_000,)]


def test_a_revoked_grant_is_no_evidence_of_a_clawback(campaigns: Campaigns) -> None:
    campaign, wallet, grant = granted(campaigns)
    ledger = campaigns.ledger
    ledger.release(ledger.reserve(wallet, 10))

    def is_seen() -> bool | None:
        with ledger.database.reading() as tx:
            return next(one.is_met for one in readiness(tx) if one.id == "live_refund")

    campaigns.revoke(campaign, grant).unwrap()
    assert is_seen() is False
    ledger.answer(Refund(wallet, ledger.mint(wallet, 5, "deposit", source_id="nowpay-1")))
    assert is_seen() is True


def test_a_grant_may_be_revoked_after_its_campaign(campaigns: Campaigns) -> None:
    campaign, _, grant = granted(campaigns, pool_id="campaign:spring")
    campaigns.move(campaign, Action.COMPLETE)
    assert campaigns.revoke(campaign, grant).unwrap()["revokedMicro"] == "2000000"
    assert campaigns.spent(campaign) == 0


def test_what_never_was_granted_is_refused_and_audited(campaigns: Campaigns) -> None:
    campaign, wallet, grant = granted(campaigns)
    campaigns.ledger.sql("UPDATE credit_grants SET status = 'failed', lot_id = NULL")
    [breach] = campaigns.ledger.breaches()
    assert (breach.invariant, breach.expected, breach.found) == (
        "campaigns_spent_equal_grants", 0, 2 * M,
    )  # fmt: skip
    campaigns.ledger.is_sound_at_end = False
    refused = campaigns.revoke(campaign, grant).error
    assert isinstance(refused, Conflict)
    assert refused.code == "grant_not_granted"
    unknown = campaigns.revoke(campaign, "none").error
    assert isinstance(unknown, NotFound)
    assert campaigns.audited(campaign)[-2:] == ["grant_revoke_refused"] * 2
    assert campaigns.ledger.balance(wallet)[0] == 2 * M
    campaigns.ledger.is_sound_at_end = False  # the campaign spent what no grant shows now


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.integers(1, M),  # granted
            st.integers(0, 1_200_000),  # held
            st.integers(0, 1_500_000),  # its cost
            st.sampled_from(["before", "after", "never"]),  # when it is settled
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["shadow", "soft", "live"]),
)
def test_the_books_close_whatever_was_spent_before_or_after(
    campaigns: Campaigns, wallets: list[tuple[int, int, int, str]], mode: str
) -> None:
    """Spent is what the grants gave less what came back; nothing is made, nothing is lost."""
    ledger, campaign = campaigns.ledger, campaigns.active()
    ledger.configure(billing_mode=mode)
    accounts = campaigns.wallets(len(wallets))
    wishes = [Wish(one, amount) for one, (amount, *_) in zip(accounts, wallets, strict=True)]
    grants = campaigns.granted(campaign, *wishes)["grants"]
    kept = 0
    for account, grant, (amount, held, cost, when) in zip(accounts, grants, wallets, strict=True):
        most = amount if mode == "live" else held
        hold = ledger.reserve(account, max(1, min(held, most)))
        if when == "before":
            ledger.finalize(hold, cost)
        found = campaigns.revoke(campaign, grant["grantId"]).unwrap()
        if when == "after":
            ledger.finalize(hold, cost)
        kept += int(found["keptMicro"])
        assert int(found["revokedMicro"]) + int(found["keptMicro"]) == amount
        assert ledger.balance(account)[0] <= 0  # nothing of the grant can be spent any more
    assert campaigns.spent(campaign) == kept
    assert ledger.breaches() == []


def test_the_command_and_the_api_revoke(ledger: Ledger, redis_url: str, api_of: Any) -> None:
    campaigns, at = Campaigns(ledger), {"DATABASE_URL": ledger.url, "REDIS_URL": redis_url}
    campaign, wallet, grant = granted(campaigns)
    order = ("campaign", "revoke", grant, "--yes")
    assert arrakis(*order, **at)[0] == 2
    assert arrakis("campaign", "revoke", "none", "--reason", "x", "--yes", **at)[0] == 1
    done = arrakis(*order, "--reason", "wrong wallet", **at)
    assert done == (0, f"{grant} is revoked: $2.00 came back, $0.00 stay spent.\n", "")
    assert told(*order, "--reason", "again", **at)[1]["status"] == "revoked"
    [(details,)] = ledger.rows("SELECT details FROM admin_audit_log WHERE action = 'grant_revoke'")
    assert json.loads(details)["reason"] == "wrong wallet"
    campaign, wallet, grant = granted(campaigns)
    api, path = api_of(ledger.url), f"/admin/billing/campaigns/{campaign}/grants"
    assert api.post(f"{path}/{grant}/revoke", {}, headers=api.admin()).status_code == 400
    reader = api.admin(scopes=["billing:read"])
    body = {"reason": "wrong wallet"}
    assert api.post(f"{path}/{grant}/revoke", body, headers=reader).status_code == 403
    assert api.post(f"{path}/none/revoke", body, headers=api.admin()).status_code == 404
    done = api.post(f"{path}/{grant}/revoke", body, headers=api.admin())
    assert (done.status_code, done.json()["revokedMicro"]) == (200, "2000000")
    again = api.post(f"{path}/{grant}/revoke", body, headers=api.admin())
    assert (again.json(), again.headers["Idempotent-Replay"]) == (done.json(), "true")
    listed = api.get(f"{path}?status=revoked", headers=reader).json()["grants"]
    assert [one["accountId"] for one in listed] == [wallet]
