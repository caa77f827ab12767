"""arrakis doctor: a line for each thing that can be wrong, with what to do, and exit codes."""

from pathlib import Path
from typing import Any

from tests.command import NO_REDIS, arrakis, told
from tests.harness import SECRETS
from tests.ledger import Ledger
from tests.provider_harness import API_KEY, Simulator
from tests.shop import networks


def well(ledger: Ledger, redis_url: str, simulator: Simulator) -> dict[str, str]:
    """Return an environment in which nothing is wrong."""
    return {
        **SECRETS,
        "DATABASE_URL": ledger.url,
        "REDIS_URL": redis_url,
        "FEATURE_BILLING_ENABLED": "true",
        "NOWPAYMENTS_API_URL": f"{simulator.url}/v1",
        "NOWPAYMENTS_API_KEY": API_KEY,
        "X402_NETWORKS": networks(simulator),
    }


def verdicts(**environment: str) -> tuple[int, dict[str, Any]]:
    code, found = told("doctor", **environment)
    return code, {one["check"]: one["verdict"] for one in found["findings"]}


def test_a_fit_environment_is_told_line_by_line(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    code, output, complaint = arrakis("doctor", **well(ledger, redis_url, simulator))
    assert (code, complaint) == (0, ""), output
    lines = output.splitlines()[1:]
    assert len(lines) == 13
    assert all(line.startswith("ok ") for line in lines), output
    assert "\x1b" not in output  # colours are for terminals
    for secret in SECRETS.values():
        assert secret not in output


def test_each_fault_is_told_with_what_to_do(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    ledger.configure(commons_rate_bps="501")
    faults = {
        "BILLING_ADMIN_JWT_SECRET": "short",
        "NOWPAYMENTS_IPN_SECRET": "",
        "FEATURE_BILLING_ENABLED": "yes",
        "NOWPAYMENTS_API_KEY": "",
        "X402_NETWORKS": "{}",
    }
    environment = well(ledger, redis_url, simulator) | faults
    code, found = told("doctor", **environment)
    bad = {one["check"]: one for one in found["findings"] if one["verdict"] != "ok"}
    assert {name: one["verdict"] for name, one in bad.items()} == {
        "BILLING_ADMIN_JWT_SECRET": "wrong",
        "NOWPAYMENTS_IPN_SECRET": "wrong",
        "FEATURE_BILLING_ENABLED": "warning",
        "NOWPAYMENTS_API_KEY": "wrong",
        "X402_NETWORKS": "wrong",
        "billing_config": "wrong",
    }
    assert code == 1
    assert all(one["advice"] for one in bad.values())
    assert "do not add up" in bad["billing_config"]["told"]
    assert "short" not in bad["BILLING_ADMIN_JWT_SECRET"]["told"]


def test_what_is_away_is_told_with_exit_3(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    environment = well(ledger, redis_url, simulator)
    code, found = verdicts(**environment | {"REDIS_URL": NO_REDIS})
    assert (code, found["redis"], found["database"]) == (3, "away", "ok")
    simulator.control("faults", mode="down")
    code, found = verdicts(**environment)
    assert (code, found["nowpayments"]) == (3, "away")
    code, found = verdicts(
        **environment | {"DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    )
    assert (code, found["database"], found["clock"]) == (3, "away", "away")


def test_an_old_schema_is_told(tmp_path: Path) -> None:
    code, found = told("doctor", **SECRETS, DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
    [one] = [one for one in found["findings"] if one["check"] == "database"]
    assert (one["verdict"], one["advice"]) == ("wrong", "Run: arrakis migrate")
    assert code == 3  # Redis is away here
