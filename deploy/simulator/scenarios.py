"""The named stories of a payment, as data, and the one function that plays them.

A step either moves the payment (and tells the receiver, or keeps silent), sends an earlier notice
once more, or brings another deposit to the same address; then the next steps are about that one.
"""

import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from deploy.simulator.notices import Courier, Delivery
from deploy.simulator.state import Book

Act = Literal["tell", "keep silent", "send again", "deposit again", "deposit another coin"]


@dataclass(frozen=True)
class Step:
    """One step: what is done, about which status, with which share of the asked amount paid."""

    act: Act
    status: str = ""
    share: Decimal | None = None


@dataclass(frozen=True)
class Scenario:
    """A story: what it shows, in a sentence, and its steps."""

    sentence: str
    steps: tuple[Step, ...]


def _tell(*statuses: str, share: str | None = None) -> tuple[Step, ...]:
    part = None if share is None else Decimal(share)
    return tuple(Step("tell", status, part) for status in statuses)


def _silently(*statuses: str) -> tuple[Step, ...]:
    return tuple(Step("keep silent", status) for status in statuses)


def _again(*statuses: str) -> tuple[Step, ...]:
    return tuple(Step("send again", status) for status in statuses)


_HAPPY = _tell("waiting", "confirming", "confirmed", "sending", "finished")

SCENARIOS = {
    "happy": Scenario("Paid in full; one notice for each status, in order.", _HAPPY),
    "finished-twice": Scenario(
        "Paid in full; the notice of finished is delivered a second time, byte for byte.",
        _HAPPY + _again("finished"),
    ),
    "out-of-order": Scenario(
        "Paid in full; finished overtakes the earlier notices, and comes once more at the end.",
        _tell("confirming")
        + _silently("confirmed", "sending")
        + _tell("finished")
        + _again("confirmed", "waiting", "sending", "finished"),
    ),
    "partial": Scenario(
        "Half of the amount arrives and no more: partially_paid.",
        _tell("waiting") + _tell("confirming", "confirmed", "partially_paid", share="0.5"),
    ),
    "partial-then-finished": Scenario(
        "Half arrives (partially_paid), the rest follows on the same payment: finished.",
        _tell("waiting")
        + _tell("confirming", "confirmed", "partially_paid", share="0.5")
        + _tell("confirming", "confirmed", "sending", "finished"),
    ),
    "repeated-deposit": Scenario(
        "After finished another 40 % comes to the same address: a new payment with a parent.",
        (*_HAPPY, Step("deposit again", share=Decimal("0.4")), *_tell("confirming", "finished")),
    ),
    "wrong-asset": Scenario(
        "The payer sends another coin: a new payment with a parent; the first one stays waiting.",
        (
            *_tell("waiting"),
            Step("deposit another coin", share=Decimal(1)),
            *_tell("confirming", "finished"),
        ),
    ),
    "late-after-expired": Scenario(
        "Nothing comes in time (expired); then the whole amount arrives late and is finished.",
        _tell("waiting", "expired", "confirming", "confirmed", "sending", "finished"),
    ),
    "refunded": Scenario(
        "Paid in full and finished; later the money goes back to the payer.",
        _HAPPY + _tell("refunded"),
    ),
    "failed": Scenario(
        "The money arrives, then something breaks at the provider: failed.",
        _tell("waiting", "confirming", "failed"),
    ),
    "expired": Scenario("Nobody pays: expired.", _tell("waiting", "expired")),
    "refunded-before-finished": Scenario(
        "Paid in full and confirmed, then given back to the payer without ever being finished.",
        _tell("waiting", "confirming", "confirmed", "refunded"),
    ),
    "failed-then-finished": Scenario(
        "Something breaks at the provider (failed); then it is mended by hand and finished.",
        _tell("waiting", "confirming", "failed", "finished"),
    ),
    "unknown-status": Scenario(
        "Between confirmed and finished comes a status that no document names.",
        _tell("waiting", "confirming", "confirmed", "under_review", "finished"),
    ),
    "over-payment": Scenario(
        "Half as much again arrives as was asked, on the same payment: finished.",
        _tell("waiting") + _tell("confirming", "confirmed", "sending", "finished", share="1.5"),
    ),
    "finished-less": Scenario(
        "A tenth is missing and it is finished all the same: the outcome is below the price.",
        _tell("waiting") + _tell("confirming", "confirmed", "sending", "finished", share="0.9"),
    ),
    "partial-twice": Scenario(
        "30 % arrives (partially_paid), then 30 % more (partially_paid again), and no more.",
        _tell("waiting")
        + _tell("confirming", "partially_paid", share="0.3")
        + _tell("confirming", "partially_paid", share="0.6"),
    ),
    "wrong-asset-unprocessed": Scenario(
        "The payer sends another coin and the provider leaves it at partially_paid, with a parent.",
        (
            *_tell("waiting"),
            Step("deposit another coin", share=Decimal(1)),
            *_tell("partially_paid", share="1"),
        ),
    ),
    "missed": Scenario(
        "Paid in full and finished, but no notice is ever sent: only reading shows it.",
        _silently("waiting", "confirming", "confirmed", "sending", "finished"),
    ),
}


def play(
    scenario: Scenario,
    payment_id: int,
    *,
    book: Book,
    courier: Courier,
    pause_seconds: float,
    stopping: threading.Event,
) -> list[Delivery]:
    """Play *scenario* on a payment; return the last attempt of each notice, in the order sent."""
    deliveries = []
    target = payment_id
    for step in scenario.steps:
        if stopping.is_set():
            break
        match step.act:
            case "tell" | "keep silent":
                if step.share is None:
                    notice = book.advance(target, step.status)
                else:
                    notice = book.advance_by_share(target, step.status, share=step.share)
            case "send again":
                notice = book.notice_of(target, step.status)
            case "deposit again" | "deposit another coin":
                share = step.share or Decimal(1)
                same_coin = step.act == "deposit again"
                target = book.deposit_again(target, share=share, same_coin=same_coin)
                continue
        if step.act != "keep silent":
            deliveries.append(courier.deliver(notice))
            stopping.wait(pause_seconds)
    return deliveries
