"""Settings from files, and who is believed about a caller's address."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from shared.config import (
    ApiSettings,
    CommonSettings,
    SettingsError,
    WebhookSettings,
    load_settings,
)
from shared.database import Database
from shared.version import VERSION
from shared.wsgi import client_address
from tests.api_app import idle_app, make_app
from tests.harness import SECRETS

SECRET = "s" * 40
PROXIES = [ip_network("10.0.0.0/24"), ip_network("fd00::/64")]
FRONT = "10.0.0.2"


def test_any_setting_can_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "url").write_text("postgresql+psycopg://arrakis:pw@postgres/arrakis\n")
    settings = load_settings(
        WebhookSettings,
        {
            "NOWPAYMENTS_IPN_SECRET_FILE": str(tmp_path / "secret"),
            "DATABASE_URL_FILE": str(tmp_path / "url"),
        },
    )
    assert settings.nowpayments_ipn_secret == SECRET
    assert settings.database_url == "postgresql+psycopg://arrakis:pw@postgres/arrakis"
    assert set(settings.secret_values()) == {SECRET, "pw"}


def test_an_empty_file_is_a_setting_that_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    empty = {"NOWPAYMENTS_IPN_SECRET_FILE": str(tmp_path / "empty")}
    with pytest.raises(SettingsError, match="NOWPAYMENTS_IPN_SECRET is not set"):
        load_settings(WebhookSettings, empty)
    optional = {"REDIS_URL_FILE": str(tmp_path / "empty")}
    assert load_settings(CommonSettings, optional) == load_settings(CommonSettings, {})


def test_a_short_secret_in_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short\n")
    with pytest.raises(SettingsError, match="NOWPAYMENTS_IPN_SECRET must have at least 32 bytes"):
        load_settings(WebhookSettings, {"NOWPAYMENTS_IPN_SECRET_FILE": str(tmp_path / "short")})


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    for name, reason in (("absent", "No such file or directory"), ("binary", "it is not UTF-8")):
        with pytest.raises(SettingsError) as stopped:
            load_settings(CommonSettings, {"REDIS_URL_FILE": str(tmp_path / name)})
        assert str(stopped.value) == f"Cannot start: REDIS_URL_FILE cannot be read ({reason})."


def test_a_setting_and_its_file_together_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://elsewhere/0")
    both = {"REDIS_URL": "redis://here/0", "REDIS_URL_FILE": str(tmp_path / "url")}
    with pytest.raises(SettingsError, match="both REDIS_URL and REDIS_URL_FILE are set"):
        load_settings(CommonSettings, both)


def test_trusted_proxies_are_addresses_and_networks() -> None:
    given = {**SECRETS, "ARRAKIS_TRUSTED_PROXIES": "10.0.0.0/24, 192.0.2.7"}
    settings = load_settings(ApiSettings, given)
    assert settings.trusted_proxies == (ip_network("10.0.0.0/24"), ip_network("192.0.2.7/32"))
    for wrong in ("front", "10.0.0.1/24"):
        with pytest.raises(SettingsError, match="ARRAKIS_TRUSTED_PROXIES"):
            load_settings(ApiSettings, {**SECRETS, "ARRAKIS_TRUSTED_PROXIES": wrong})


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (FRONT, "198.51.100.7", "198.51.100.7"),
        (FRONT, "1.1.1.1, 198.51.100.7", "198.51.100.7"),  # the caller's own word is at the left
        (FRONT, "198.51.100.7,10.0.0.3", "198.51.100.7"),  # through two proxies of ours
        (FRONT, "10.0.0.3", "10.0.0.3"),  # a request of the front's network itself
        (f"::ffff:{FRONT}", "198.51.100.7", "198.51.100.7"),
        ("fd00::2", "2001:DB8::1", "2001:db8::1"),
        (FRONT, "", FRONT),
        (FRONT, "198.51.100.7, nonsense", FRONT),
        (FRONT, "nonsense, 198.51.100.7", "198.51.100.7"),
        ("198.51.100.9", "1.1.1.1", "198.51.100.9"),  # forged: it did not come through the front
        ("198.51.100.9", f"1.1.1.1, {FRONT}", "198.51.100.9"),
        ("", "1.1.1.1", ""),
    ],
)
def test_a_forwarded_address_is_believed_from_our_proxies_only(
    peer: str, forwarded: str, expected: str
) -> None:
    """Weakness W46: the earlier system believed whatever a caller wrote."""
    assert client_address(peer, forwarded, PROXIES) == expected


def test_the_public_limit_counts_callers_not_the_front() -> None:
    nowhere = "redis://127.0.0.1:9/0"
    app = make_app(Database("sqlite:///unopened.db"), nowhere, ARRAKIS_TRUSTED_PROXIES=FRONT)

    def left(peer: str, forwarded: str) -> int:
        answer = app.test_client().get(
            "/docs", headers={"X-Forwarded-For": forwarded}, environ_base={"REMOTE_ADDR": peer}
        )
        return int(answer.headers["RateLimit-Remaining"])

    assert [left(FRONT, "198.51.100.1"), left(FRONT, "198.51.100.1")] == [99, 98]
    assert left(FRONT, "198.51.100.2") == 99
    assert left(FRONT, "198.51.100.2, 198.51.100.1") == 97
    # Whoever comes past the front is counted by their own address, whatever they write.
    assert [left("198.51.100.9", f"192.0.2.{n}") for n in range(3)] == [99, 98, 97]


def test_without_trusted_proxies_no_header_changes_who_called() -> None:
    client = idle_app().test_client()
    answers = [client.get("/docs", headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(3)]
    assert [int(one.headers["RateLimit-Remaining"]) for one in answers] == [99, 98, 97]


def test_the_version_is_a_release_of_ours() -> None:
    root = Path(__file__).resolve().parents[2]
    assert "version =" not in (root / "pyproject.toml").read_text().partition("[tool.")[0]
    assert len(VERSION.split(".")) == 3
