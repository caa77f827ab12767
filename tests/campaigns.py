"""Campaigns as tests drive them: on one ledger, each method one transaction."""

import json
from collections.abc import Iterable
from typing import Any

from shared.campaigns import granting, lifecycle, lists, revoking, views, working
from shared.campaigns.lists import GrantList, Wish
from shared.campaigns.states import Action
from shared.clock import add_seconds
from shared.database import insert_rows
from shared.errors import ArrakisError
from shared.ledger.commands import Outcome
from shared.models.ledger import Account
from shared.operations.audit import Actor
from tests.harness import unique
from tests.ledger import Ledger

ADMIN = Actor("admin", "ada")
M = 1_000_000


class Campaigns:
    """The desk of one ledger's campaigns."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def draft(self, *, config: Any = None, lasts_seconds: float | None = None, **more: Any) -> str:
        """Make a draft with a budget of 10 M and return its id."""
        with self.ledger.database.transaction() as tx:
            facts = {"name": "Spring", "campaign_type": "promotional", "budget_micro": 10 * M}
            facts |= {"grant_config": json.dumps(config)} if config else {}
            if lasts_seconds is not None:
                facts["expires_at"] = add_seconds(tx.now, lasts_seconds)
            made = lifecycle.create(tx, ADMIN, lifecycle.Draft(**{**facts, **more})).unwrap()
        return str(made["campaignId"])

    def active(self, **more: Any) -> str:
        """Make a campaign that may grant."""
        campaign = self.draft(**more)
        self.move(campaign, Action.ACTIVATE).unwrap()
        return campaign

    def move(self, campaign: str, action: Action) -> Outcome:
        with self.ledger.database.transaction() as tx:
            return lifecycle.move(tx, ADMIN, campaign, action)

    def change(self, campaign: str, **changes: Any) -> Outcome:
        with self.ledger.database.transaction() as tx:
            return lifecycle.change(tx, ADMIN, campaign, changes)

    def show(self, campaign: str) -> dict[str, Any]:
        with self.ledger.database.reading() as tx:
            return lifecycle.show(tx, campaign)

    def status(self, campaign: str) -> str:
        """Return the status as the database has it."""
        [[found]] = self.ledger.rows(
            "SELECT status FROM credit_campaigns WHERE id = :id", id=campaign
        )
        return str(found)

    def grant(self, campaign: str, *wishes: Wish, key: str | None = None) -> Outcome:
        """Grant at once."""
        wanted = GrantList(wishes, key)
        return working.grant_now(self.ledger.database, self.ledger.terms, ADMIN, campaign, wanted)

    def granted(self, campaign: str, *wishes: Wish) -> dict[str, Any]:
        """Grant at once, which must not be refused as a whole."""
        return self.grant(campaign, *wishes).unwrap()

    def refusal(self, campaign: str, *wishes: Wish) -> ArrakisError:
        """Grant at once, which must be refused as a whole and change nothing."""
        before = self.money(campaign)
        error = self.grant(campaign, *wishes).error
        assert error is not None
        assert self.money(campaign) == before
        return error

    def enlist(self, campaign: str, wishes: Iterable[Wish], key: str | None = None) -> Outcome:
        """Leave a list for the workers."""
        wanted = GrantList(list(wishes), key, maximum=lists.LIST_MAX)
        return working.enlist(self.ledger.database, ADMIN, campaign, wanted)

    def queue(self, campaign: str, wishes: Iterable[Wish]) -> str:
        """Leave a list for the workers, which must be taken, and return its id."""
        return str(self.enlist(campaign, wishes).unwrap()["batchId"])

    def work(self) -> int:
        """Work off one chunk as a worker does."""
        return working.work_off(self.ledger.database, self.ledger.terms)

    def work_all(self) -> None:
        """Work until nothing is due."""
        while self.work():
            pass

    def batch(self, campaign: str, batch: str) -> dict[str, Any]:
        with self.ledger.database.reading() as tx:
            return views.show_batch(tx, campaign, batch)

    def retry(self, campaign: str, grant: str) -> Outcome:
        return granting.retry(self.ledger.database, self.ledger.terms, ADMIN, campaign, grant)

    def revoke(self, campaign: str, grant: str, reason: str = "mistake") -> Outcome:
        database, terms = self.ledger.database, self.ledger.terms
        return revoking.revoke(database, terms, ADMIN, campaign, grant, reason=reason)

    def preview(self, campaign: str, *wishes: Wish, **more: Any) -> dict[str, Any]:
        with self.ledger.database.reading() as tx:
            return lists.preview(tx, campaign, wishes, **more)

    def wallets(self, count: int) -> list[str]:
        """Make *count* accounts at once; their ids are in order."""
        prefix = unique("w")
        rows = [
            {"id": f"{prefix}-{n:06d}", "entity_type": "person", "entity_id": f"{prefix}-{n:06d}"}
            for n in range(count)
        ]
        with self.ledger.database.transaction() as tx:
            insert_rows(tx, Account.__table__, rows)
        return [row["id"] for row in rows]

    def money(self, campaign: str) -> dict[str, Any]:
        """Return all rows of money and of this campaign."""
        return {
            **self.ledger.everything(),
            "grants": self.ledger.rows("SELECT * FROM credit_grants ORDER BY id"),
            "batches": self.ledger.rows("SELECT * FROM grant_batches ORDER BY id"),
            "spent": self.spent(campaign),
        }

    def spent(self, campaign: str) -> int:
        """Return what is spent: the sum of the grants less what revoked ones gave back (their
        lots tell), and of the lots less what was clawed back, which is checked."""
        [[spent, granted, lots]] = self.ledger.rows(
            "SELECT spent_micro, (SELECT COALESCE(SUM(g.amount_micro), 0) FROM credit_grants g"
            " WHERE g.campaign_id = c.id AND g.status IN ('granted', 'revoked'))"
            " - (SELECT COALESCE(SUM(l.clawed_back_micro), 0) FROM credit_grants g"
            " JOIN credit_lots l ON l.id = g.lot_id"
            " WHERE g.campaign_id = c.id AND g.status = 'revoked'),"
            " (SELECT COALESCE(SUM(l.original_micro - l.clawed_back_micro), 0) FROM credit_lots l"
            " JOIN credit_grants g ON g.lot_id = l.id WHERE g.campaign_id = c.id)"
            " FROM credit_campaigns c WHERE c.id = :id",
            id=campaign,
        ) or [[0, 0, 0]]
        assert spent == granted == lots
        return int(spent)

    def audited(self, campaign: str) -> list[str]:
        """Return the actions on a campaign, oldest first."""
        found = self.ledger.rows(
            "SELECT action FROM admin_audit_log WHERE target_id = :id ORDER BY id", id=campaign
        )
        return [action for (action,) in found]
