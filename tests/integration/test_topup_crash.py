"""The API is killed, or its facilitator hangs, in the middle of a top-up (contract 8).

Afterwards nobody has paid for nothing and nobody was credited twice; others were served all along.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from deploy.local.servers import free_port
from deploy.simulator.wallet import address_of, key_named, read_header
from tests.front_door import hold, rows, settle
from tests.harness import Api, granian, service, service_environment, wait_until
from tests.shop import FIVE, M, Shop, networks
from tests.x402_harness import PAYER, SHOP

DEEP, DESKS = 12, 6
KEY_OF_NODE = "the-key-of-the-node"


class Twin:
    """A second API process on the shop's database, which can be killed."""

    def __init__(self, api: Api, process: Any, log: Path) -> None:
        self.api, self.log, self._process = api, log, process

    def kill(self) -> None:
        """End it and its children at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5)


@contextmanager
def another_api(shop: Shop, log: Path, **environment: str) -> Iterator[Twin]:
    premises, port = shop.premises, free_port()
    settings = service_environment(
        premises.url, premises.redis_url, **premises.settings | environment
    )
    url = f"http://127.0.0.1:{port}"
    ready = f"{url}/api/internal/health"
    with service(granian("services.api.wsgi:app", port), settings, ready, log) as process:
        yield Twin(Api(url, premises.api.database), process, log)


@contextmanager
def killed_while_paying(shop: Shop, twin: Twin, header: dict[str, str]) -> Iterator[None]:
    """Pay at *twin*, and kill it when the block ends: the payer never hears what became of it."""
    heard: list[int] = []

    def pay() -> None:
        with suppress(requests.ConnectionError):
            heard.append(shop.post(FIVE, api=twin.api, **header).status_code)

    payer = threading.Thread(target=pay)
    payer.start()
    yield
    twin.kill()
    payer.join()
    assert heard == []
    shop.x402.fault("none")


def phase_is(shop: Shop, phase: str) -> Any:
    return lambda: [one[0] for one in shop.settlements()] == [phase]


def test_killed_before_anything_is_sent_the_payment_is_free(shop: Shop, tmp_path: Path) -> None:
    header = shop.sign(shop.ask())
    shop.x402.fault("hang", on="verify", seconds=8)
    with another_api(shop, tmp_path / "log") as twin, killed_while_paying(shop, twin, header):
        wait_until("the reservation", phase_is(shop, "reserved"))
    shop.watch()
    assert shop.settlements() == [("refused", "done", False)]
    assert shop.post(FIVE, **header).status_code == 201
    assert shop.balance() == 5 * M


def test_killed_while_the_facilitator_hangs_the_chain_decides(shop: Shop, tmp_path: Path) -> None:
    asked = shop.ask()
    header = shop.sign(asked)
    shop.x402.fault("hang", on="settle", seconds=8)
    with another_api(shop, tmp_path / "log") as twin, killed_while_paying(shop, twin, header):
        wait_until("the settlement", phase_is(shop, "settling"))
    shop.watch()
    assert shop.settlements() == [("settling", "new", True)]
    assert shop.post(FIVE, **header).status_code == 409
    shop.x402.simulator.control("clock", ahead_seconds=1_000)
    shop.x402.mine()
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([("refused", "done", False)], 0)
    shop.x402.reset()
    shop.x402.give(PAYER, 5 * M)
    assert shop.post(FIVE, **shop.sign(asked)).status_code == 201
    assert shop.balance() == 5 * M


def test_killed_between_settlement_and_credit_it_is_credited_once(
    shop: Shop, tmp_path: Path
) -> None:
    """Behaviour 163: there is no moment in which the money has come and nothing knows of it."""
    header = shop.sign(shop.ask())
    shop.x402.fault("timeout_after_settle", seconds=8)
    with another_api(shop, tmp_path / "log") as twin, killed_while_paying(shop, twin, header):
        wait_until("the transfer", shop.x402.settlements)
    assert (shop.x402.balance(SHOP), shop.balance()) == (5 * M, 0)
    shop.x402.mine(DEEP)
    for _ in range(3):
        shop.watch()
    assert shop.settlements() == [("settled", "done", True)]
    assert shop.balance() == 5 * M
    assert shop.post(FIVE, **header).status_code == 409


def test_a_claim_whose_process_died_is_credited_once(shop: Shop) -> None:
    """It was recorded and not yet credited: its lease is over, and a worker goes on."""
    sent = shop.x402.transfer(5 * M)["transaction"]
    assert shop.post(shop.claim(sent)).status_code == 202
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE x402_settlements SET lease_token = 'of the dead', lease_until = due_at"
            f" WHERE transaction_hash = '{sent}'"
        )
    shop.x402.mine(DEEP)
    shop.watch()
    shop.watch()
    assert shop.balance() == 5 * M


def test_a_facilitator_that_hangs_holds_up_nobody_else(shop: Shop, tmp_path: Path) -> None:
    """Thirty-two top-ups at once: six wait, the others are told at once to come again, and every
    reserve and finalize goes through meanwhile."""
    payments = []
    for number in range(32):
        key, account = key_named(f"payer {number}"), shop.api.funded_account(0)
        shop.x402.give(address_of(key), 5 * M)
        payments.append((account, shop.sign(shop.ask(account=account), key=key)))
    spender = shop.api.funded_account(M)
    with another_api(shop, tmp_path / "log") as twin, ThreadPoolExecutor(32) as pool:
        shop.x402.fault("hang", on="verify", seconds=20)
        pays = [
            pool.submit(partial(shop.post, FIVE, account, twin.api, **header))
            for account, header in payments
        ]
        wait_until("the refusals", lambda: sum(one.done() for one in pays) == 32 - DESKS, 5)
        for _ in range(20):
            assert settle(twin.api, hold(twin.api, spender, 1_000), 1_000).status_code == 200
        assert sum(one.done() for one in pays) == 32 - DESKS
        shop.x402.fault("none")  # who hangs is answered 504
        answers = [one.result() for one in pays]
    assert {one.status_code for one in answers} == {503}
    codes = [one.json()["code"] for one in answers]
    assert codes.count("topups_busy") == 32 - DESKS
    assert codes.count("facilitator_unavailable") == DESKS
    assert all(int(one.headers["Retry-After"]) > 0 for one in answers)
    open_ones = "SELECT COUNT(*) FROM x402_settlements WHERE is_open AND state = 'new'"
    assert rows(shop.api, open_ones) == [(0,)]
    account, header = payments[0]
    assert shop.post(FIVE, account, **header).status_code == 201


def test_no_log_carries_a_signature_a_payment_or_a_key(shop: Shop, tmp_path: Path) -> None:
    """Style 31: never a secret, a header or a body; not even at the most talkative level."""
    simulator = shop.x402.simulator
    host = urlsplit(simulator.url).netloc
    keyed = networks(
        simulator,
        facilitatorUrl=f"http://user:{KEY_OF_NODE}@{host}/facilitator",
        rpcUrl=f"{simulator.url}/rpc?key={KEY_OF_NODE}",
    )
    told: list[str] = [KEY_OF_NODE]
    settings = {"X402_NETWORKS": keyed, "ARRAKIS_LOG_LEVEL": "DEBUG"}
    with another_api(shop, tmp_path / "log", **settings) as twin:
        for on, mode in ((None, "none"), ("verify", "garbage"), ("settle", "lost_answer")):
            header = shop.sign(shop.ask())
            shop.x402.fault(mode, on=on, count=1)
            answered = shop.post(FIVE, api=twin.api, **header)
            assert answered.status_code in (201, 202, 503), answered.text
            signed = read_header(header["PAYMENT_SIGNATURE"])["payload"]
            told += [header["PAYMENT_SIGNATURE"], signed["signature"]]
            told += [signed["authorization"]["nonce"], signed["signature"][2:66]]
        sent = shop.x402.transfer(5 * M)["transaction"]
        simulator.control("rpc/faults", mode="down", count=3)
        for _ in range(2):
            body = shop.claim(sent)
            assert shop.post(body, api=twin.api).status_code in (202, 503)
            told.append(body["signature"])
    log = twin.log.read_text()
    assert "facilitator_answered" in log
    assert [one for one in told if one in log] == []
    assert "Bearer" not in log
