"""Campaigns and grants at once: behaviours 101-109, 176-180, W56-W60."""

from datetime import timedelta

import pytest

from services.workers.schedule import beat_schedule
from shared.campaigns import lifecycle
from shared.campaigns.lists import GrantList, Wish
from shared.campaigns.states import Action
from shared.errors import Conflict, Invalid, NotFound, Refused
from shared.messaging import TaskName
from tests.campaigns import Campaigns, M
from tests.ledger import CAMPAIGN, START, Ledger
from tests.till import work_of

DAY = 86_400


@pytest.fixture
def desk(ledger: Ledger) -> Campaigns:
    return Campaigns(ledger)


def test_a_new_campaign_is_a_draft_that_has_spent_nothing(desk: Campaigns) -> None:
    """Behaviour 101."""
    campaign = desk.draft()
    told = desk.show(campaign)
    assert (told["status"], told["spentMicro"], told["perWalletCapMicro"]) == (
        "draft",
        "0",
        "5000000",
    )
    assert (told["poolId"], told["createdBy"], told["committedMicro"]) == (None, "ada", "0")
    assert desk.audited(campaign) == ["campaign_create"]


def test_a_campaign_goes_from_draft_to_completed_and_each_step_is_audited(
    desk: Campaigns,
) -> None:
    """Behaviours 102 and 103."""
    campaign = desk.draft()
    for action in (Action.PAUSE, Action.COMPLETE):
        error = desk.move(campaign, action).error
        assert isinstance(error, Conflict)
        assert error.message.startswith("Invalid campaign transition: draft")
    for action, status in (
        (Action.ACTIVATE, "active"),
        (Action.PAUSE, "paused"),
        (Action.ACTIVATE, "active"),
        (Action.COMPLETE, "completed"),
    ):
        assert desk.move(campaign, action).unwrap()["status"] == status
    assert desk.audited(campaign) == [
        "campaign_create",
        "campaign_pause_refused",
        "campaign_complete_refused",
        "campaign_activate",
        "campaign_pause",
        "campaign_activate",
        "campaign_complete",
    ]
    assert isinstance(desk.move("none", Action.PAUSE).error, NotFound)


def test_only_a_draft_can_be_changed(desk: Campaigns) -> None:
    campaign = desk.draft()
    assert desk.change(campaign, budget_micro=3, name="Later").unwrap()["budgetMicro"] == "3"
    with pytest.raises(Invalid, match="pot is larger"):
        desk.change(
            campaign, grant_formula="proportional_loss", grant_config='{"potMicro":"4"}'
        ).unwrap()
    desk.move(campaign, Action.ACTIVATE).unwrap()
    error = desk.change(campaign, budget_micro=9 * M).error
    assert error is not None
    assert error.code == "campaign_not_draft"
    assert desk.show(campaign)["budgetMicro"] == "3"
    assert desk.audited(campaign)[1:] == [
        "campaign_update",
        "campaign_update_refused",
        "campaign_activate",
        "campaign_update_refused",
    ]


def test_a_batch_grants_each_its_lot_in_one_transaction(desk: Campaigns) -> None:
    """Behaviour 104."""
    campaign, wallets = desk.active(), desk.wallets(3)
    wishes = [Wish(w, a * M) for w, a in zip(wallets, (2, 3, 1), strict=True)]
    told = desk.granted(campaign, *wishes)
    assert (told["totalGranted"], told["totalFailed"], told["totalAmountMicro"]) == (
        3,
        0,
        "6000000",
    )
    assert desk.spent(campaign) == 6 * M
    assert [desk.ledger.balance(w) for w in wallets] == [(2 * M, 0, 0), (3 * M, 0, 0), (M, 0, 0)]
    lots = desk.ledger.rows("SELECT id, source_type, source_id, pool_id FROM credit_lots")
    assert sorted(lots) == sorted(
        (one["lotId"], "grant", f"campaign-{campaign}-{one['accountId']}", "general")
        for one in told["grants"]
    )
    keys = desk.ledger.rows("SELECT idempotency_key FROM credit_operations ORDER BY account_id")
    assert keys == [(f"grant:{campaign}:{wallet}",) for wallet in wallets]
    assert desk.audited(campaign)[-1] == "batch_grant"


@pytest.mark.parametrize(
    ("amounts", "more", "message", "kind"),
    [
        ((3, 3), {"budget_micro": 5 * M}, "exceed budget", Refused),
        ((3,), {"per_wallet_cap_micro": 2 * M}, "exceeds per-wallet cap", Refused),
        ((6,), {}, "exceeds per-wallet cap", Refused),
    ],
)
def test_a_batch_over_the_budget_or_the_cap_is_refused_as_a_whole(
    desk: Campaigns, amounts: tuple[int, ...], more: dict[str, int], message: str, kind: type
) -> None:
    """Behaviours 105 and 106."""
    campaign, wallets = desk.active(**more), desk.wallets(len(amounts))
    wishes = [Wish(w, a * M) for w, a in zip(wallets, amounts, strict=True)]
    refused = desk.refusal(campaign, *wishes)
    assert isinstance(refused, kind)
    assert message in refused.message
    assert desk.audited(campaign)[-1] == "batch_grant_refused"


def test_a_batch_needs_a_campaign_that_is_active_and_not_too_many_wallets(
    desk: Campaigns,
) -> None:
    """Behaviours 107-109."""
    [wallet] = desk.wallets(1)
    draft = desk.draft()
    assert "must be active" in desk.refusal(draft, Wish(wallet, M)).message
    assert isinstance(desk.refusal("unknown", Wish(wallet, M)), NotFound)
    campaign = desk.active()
    many = [Wish(f"w{n}", 1) for n in range(1001)]
    assert "exceeds maximum 1000" in desk.refusal(campaign, *many).message
    assert desk.granted(campaign)["totalGranted"] == 0
    assert desk.refusal(campaign, Wish(wallet, 0)).code == "invalid_amount"
    assert desk.refusal(campaign, Wish(wallet, 1), Wish("w", None)).code == "mixed_amounts"


def test_a_repeated_batch_spends_nothing_and_says_so(desk: Campaigns) -> None:
    """Behaviour 176, W56: the budget is used up, and a repeat is still answered."""
    campaign, wallets = desk.active(budget_micro=2 * M), desk.wallets(2)
    wishes = [Wish(wallet, M) for wallet in wallets]
    first = desk.granted(campaign, *wishes)
    before = desk.ledger.everything()
    again = desk.granted(campaign, *wishes)
    assert (again["totalGranted"], again["totalExisting"], again["totalAmountMicro"]) == (0, 2, "0")
    assert [(g["lotId"], g["status"], g["isNew"]) for g in again["grants"]] == [
        (g["lotId"], "granted", False) for g in first["grants"]
    ]
    assert desk.ledger.everything() == before
    assert desk.spent(campaign) == 2 * M


def test_a_wallet_that_is_named_twice_gets_one_grant(desk: Campaigns) -> None:
    """W56: the budget holds one of them only."""
    campaign, [wallet] = desk.active(budget_micro=2 * M), desk.wallets(1)
    told = desk.granted(campaign, Wish(wallet, 2 * M), Wish(wallet, 2 * M), Wish(wallet, M))
    assert (told["totalGranted"], told["totalExisting"]) == (1, 2)
    assert {(g["lotId"], g["amountMicro"]) for g in told["grants"]} == {
        (told["grants"][0]["lotId"], "2000000")
    }
    assert desk.spent(campaign) == 2 * M


def test_the_same_key_gives_the_same_answer_and_no_other_list(desk: Campaigns) -> None:
    campaign, [one, other] = desk.active(), desk.wallets(2)
    first = desk.grant(campaign, Wish(one, M), key="k1")
    again = desk.grant(campaign, Wish(one, M), key="k1")
    assert (again.is_replay, again.unwrap()) == (True, first.unwrap())
    refused = desk.grant(campaign, Wish(other, M), key="k1").error
    assert refused is not None
    assert refused.code == "idempotency_conflict"
    assert desk.spent(campaign) == M


def test_an_unknown_account_fails_alone(desk: Campaigns) -> None:
    campaign, [wallet] = desk.active(budget_micro=3 * M), desk.wallets(1)
    told = desk.granted(campaign, Wish("nobody", M), Wish(wallet, M), Wish("nobody", M))
    assert [(g["status"], g["error"]) for g in told["grants"]] == [
        ("failed", "account_not_found"),
        ("granted", None),
        ("failed", "account_not_found"),
    ]
    assert (told["totalGranted"], told["totalFailed"], desk.spent(campaign)) == (1, 2, M)


def test_lots_inherit_pool_and_expiry(desk: Campaigns) -> None:
    """Behaviour 178, W58."""
    campaign = desk.active(pool_id=CAMPAIGN, lasts_seconds=DAY)
    [wallet] = desk.wallets(1)
    desk.granted(campaign, Wish(wallet, M))
    assert desk.ledger.balance(wallet, CAMPAIGN) == (M, 0, 0)
    assert desk.ledger.balance(wallet)[0] == 0
    desk.ledger.clock.advance(seconds=DAY)
    assert desk.ledger.sweep() == (0, 1)
    assert desk.ledger.balance(wallet, CAMPAIGN) == (0, 0, 0)


@pytest.mark.parametrize("is_swept", [True, False])
def test_a_campaign_whose_time_is_over_is_expired_and_grants_nothing(
    desk: Campaigns, *, is_swept: bool
) -> None:
    """Behaviour 178: by the tick, and by whoever asks for a grant before it."""
    campaign, lasting = desk.active(lasts_seconds=60), desk.active()
    [wallet] = desk.wallets(1)
    desk.ledger.clock.advance(seconds=60)
    if is_swept:
        work = work_of(desk.ledger.database)
        assert work.run(TaskName.EXPIRE_CAMPAIGNS) == 1
        assert desk.status(campaign) == "expired"
    refused = desk.grant(campaign, Wish(wallet, M)).error
    assert refused is not None
    assert (refused.code, refused.details["status"]) == ("campaign_not_active", "expired")
    assert (desk.status(campaign), desk.status(lasting)) == ("expired", "active")
    assert desk.audited(campaign)[2:] == ["campaign_expire", "batch_grant_refused"]
    assert isinstance(desk.move(campaign, Action.ACTIVATE).error, Conflict)
    assert desk.spent(campaign) == 0


def test_a_draft_whose_time_is_over_is_not_activated(desk: Campaigns) -> None:
    campaign = desk.draft(lasts_seconds=60)
    desk.ledger.clock.advance(seconds=61)
    refused = desk.move(campaign, Action.ACTIVATE).error
    assert refused is not None
    assert (refused.code, desk.status(campaign)) == ("campaign_expired", "draft")
    with pytest.raises(Invalid, match="lie ahead"):
        desk.draft(expires_at=START - timedelta(days=1))


def test_a_failed_grant_is_retried_to_granted_with_its_lot(desk: Campaigns) -> None:
    """Behaviour 179, W59."""
    campaign, [wallet] = desk.active(), desk.wallets(1)
    desk.ledger.configure(ceiling_micro=str(M))
    told = desk.granted(campaign, Wish(wallet, 2 * M))
    [failed] = told["grants"]
    assert (failed["status"], failed["lotId"], failed["error"]) == (
        "failed",
        None,
        "amount_above_ceiling",
    )
    assert isinstance(desk.retry(campaign, failed["grantId"]).error, Invalid)
    assert desk.spent(campaign) == 0
    desk.ledger.configure(ceiling_micro=str(100 * M))
    mended = desk.retry(campaign, failed["grantId"]).unwrap()
    assert (mended["status"], mended["error"], desk.spent(campaign)) == ("granted", None, 2 * M)
    assert desk.ledger.rows("SELECT id FROM credit_lots") == [(mended["lotId"],)]
    again = desk.retry(campaign, failed["grantId"])
    assert (again.is_replay, again.unwrap()["lotId"]) == (True, mended["lotId"])
    assert desk.audited(campaign)[-2:] == ["grant_retry_refused", "grant_retry"]
    assert isinstance(desk.retry(campaign, "none").error, NotFound)


def test_a_failed_grant_comes_right_with_the_next_list_too(desk: Campaigns) -> None:
    campaign, [wallet] = desk.active(), desk.wallets(1)
    desk.ledger.configure(ceiling_micro="1")
    desk.granted(campaign, Wish(wallet, 2 * M))
    desk.ledger.configure(ceiling_micro=str(100 * M))
    assert desk.granted(campaign, Wish(wallet, 3 * M))["totalAmountMicro"] == "3000000"
    assert desk.ledger.rows("SELECT status, amount_micro FROM credit_grants") == [
        ("granted", 3 * M)
    ]
    assert desk.spent(campaign) == 3 * M


def test_a_lot_that_was_made_without_its_grant_is_found_again(desk: Campaigns) -> None:
    """W59: as the earlier system left it, the money is out and the grant says failed."""
    campaign, [wallet] = desk.active(), desk.wallets(1)
    lot = desk.ledger.mint(wallet, M, source_id=f"campaign-{campaign}-{wallet}")
    told = desk.granted(campaign, Wish(wallet, M))
    assert (told["grants"][0]["lotId"], desk.spent(campaign)) == (lot, M)
    assert desk.ledger.balance(wallet) == (M, 0, 0)


def test_a_revoked_grant_stays_revoked(desk: Campaigns) -> None:
    campaign, [wallet] = desk.active(), desk.wallets(1)
    grant = desk.granted(campaign, Wish(wallet, M))["grants"][0]
    desk.revoke(campaign, grant["grantId"]).unwrap()
    told = desk.granted(campaign, Wish(wallet, M))
    assert told["grants"][0]["error"] == "grant_revoked"
    error = desk.retry(campaign, grant["grantId"]).error
    assert error is not None
    assert error.code == "grant_revoked"
    desk.ledger.is_sound_at_end = False  # no entry shows what this revocation gave back


def test_a_debt_is_paid_by_a_grant_first(desk: Campaigns) -> None:
    campaign, [wallet] = desk.active(), desk.wallets(1)
    desk.ledger.configure(billing_mode="soft")
    desk.ledger.finalize(desk.ledger.reserve(wallet, 1), M)
    desk.granted(campaign, Wish(wallet, 3 * M))
    assert desk.ledger.balance(wallet) == (2 * M, 0, 0)


PROPORTIONAL = {"grant_formula": "proportional_loss", "config": {"potMicro": "1000000"}}
TIERED = {
    "grant_formula": "tiered",
    "config": {
        "tiers": [
            {"threshold": "10", "amountMicro": "1000000"},
            {"threshold": "100", "amountMicro": "3000000"},
        ]
    },
}


def test_formulas_give_the_documented_amounts_and_keep_their_inputs(desk: Campaigns) -> None:
    """Behaviour 180, W60."""
    a, b, c = desk.wallets(3)
    fixed = desk.active(config={"amountMicro": "700000"})
    assert desk.granted(fixed, Wish(a), Wish(b))["totalAmountMicro"] == "1400000"
    shared = desk.active(**PROPORTIONAL)
    wishes = [Wish(c, None, '{"lossMicro":"1"}'), Wish(a, None, '{"lossMicro":"1"}')]
    wishes.append(Wish(b, None, '{"lossMicro":"1"}'))
    foreseen = desk.preview(shared, *wishes)
    told = desk.granted(shared, *wishes)
    expected = {a: "333334", b: "333333", c: "333333"}
    for one in (foreseen, told):
        assert {g["accountId"]: g["amountMicro"] for g in one["grants"]} == expected
        assert one["formula"]["version"] == 1
    tiered = desk.active(**TIERED)
    told = desk.granted(
        tiered, *(Wish(w, None, f'{{"metric":{m}}}') for w, m in ((a, 9), (b, 10), (c, 1000)))
    )
    assert [(g["status"], g["amountMicro"]) for g in told["grants"]] == [
        ("skipped", "0"),
        ("granted", "1000000"),
        ("granted", "3000000"),
    ]
    assert desk.ledger.rows(
        "SELECT grant_formula, formula_version, formula_input FROM credit_grants"
        " WHERE campaign_id = :id ORDER BY amount_micro",
        id=tiered,
    ) == [("tiered", 1, '{"metric":10}'), ("tiered", 1, '{"metric":1000}')]


def test_what_a_formula_gives_is_cut_to_cap_and_budget_and_the_rest_stays(
    desk: Campaigns,
) -> None:
    a, b, c = desk.wallets(3)
    more = {"budget_micro": 5 * M, "per_wallet_cap_micro": 2 * M}
    campaign = desk.active(config={"amountMicro": "3000000"}, **more)
    told = desk.granted(campaign, Wish(c), Wish(b), Wish(a))
    assert {g["accountId"]: g["amountMicro"] for g in told["grants"]} == {
        a: "2000000",
        b: "2000000",
        c: "1000000",
    }
    assert told["formula"]["clippedMicro"] == "4000000"
    assert desk.spent(campaign) == 5 * M


def test_a_preview_changes_nothing_and_can_try_other_figures(desk: Campaigns) -> None:
    campaign, [wallet] = desk.draft(), desk.wallets(1)
    before = desk.money(campaign)
    with pytest.raises(Invalid):
        desk.preview(campaign, Wish(wallet))
    tried = desk.preview(campaign, Wish(wallet), grant_config={"amountMicro": "1"})
    assert (tried["totalAmountMicro"], tried["remainingMicro"]) == ("1", "9999999")
    assert desk.money(campaign) == before
    with pytest.raises(NotFound):
        desk.preview("none", Wish(wallet))


def test_a_formula_needs_its_figures_and_inputs_when_the_list_comes(desk: Campaigns) -> None:
    [wallet] = desk.wallets(1)
    assert desk.refusal(desk.active(), Wish(wallet)).code == "invalid_grant_config"
    shared = desk.active(**PROPORTIONAL)
    assert desk.refusal(shared, Wish(wallet)).code == "invalid_formula_input"


def test_the_expiry_of_campaigns_is_on_the_schedule(desk: Campaigns) -> None:
    planned = beat_schedule()["maintenance.expire_campaigns"]
    assert planned["schedule"] <= 60
    assert lifecycle.expire_due(desk.ledger.database) == 0
    assert GrantList([]).fingerprint == GrantList([], "another key").fingerprint
