"""Where webhooks may go: the ways in which a URL tries to reach what is ours (SSRF)."""

import socket
from typing import Any

import pytest

from shared.notifications import addresses
from shared.notifications.addresses import HostUnknown, UrlRefused, check_url, is_public, resolve
from shared.notifications.sending import NoAnswer, Patience, post


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",  # noqa: S104  nothing is bound to it
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "nothing",
    ],
)
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "2606:4700:4700::1111"])
def test_a_public_address_is_fine(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nothing",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com/#part",
        "https://example.com:80/",
        "https://example.com:22/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.1.nothing.1/",
        "https://[::1%25lo]/",
        "https://[nothing]/",
        "https://example.com\\@127.0.0.1/",
        "https://exa mple.com/",
        "https://example.com/\r\nX-Header: 1",
        "https://ex\u00e4mple.com/",
        "https://-example.com/",
        "https://example..com/",
        "https://example.com/" + "a" * 2000,
    ],
)
def test_a_url_that_is_not_plain_https_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        check_url(url, allow_private=False)


def test_a_plain_url_is_taken_apart() -> None:
    target = check_url("https://Hooks.Example.com:8443/a/b?c=d", allow_private=False)
    assert (target.host, target.port, target.path) == ("hooks.example.com", 8443, "/a/b?c=d")
    assert check_url("https://[2606:4700::1]/", allow_private=False).host == "2606:4700::1"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What a resolver answers, question by question."""
    known: dict[str, list[list[str]]] = {}

    def resolver(host: str, port: int, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(host)
        return [(0, 0, 0, "", (address, port)) for address in known[host].pop(0)]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolver)
    return known


def test_every_address_of_a_name_must_be_public(names: dict[str, list[list[str]]]) -> None:
    names["mixed.example"] = [["8.8.8.8", "10.0.0.1"]]
    names["fine.example"] = [["8.8.8.8", "8.8.8.8", "2606:4700::1"]]
    with pytest.raises(UrlRefused):
        resolve(check_url("https://mixed.example/", allow_private=False), allow_private=False)
    fine = check_url("https://fine.example/", allow_private=False)
    assert resolve(fine, allow_private=False) == ["8.8.8.8", "2606:4700::1"]
    with pytest.raises(HostUnknown):
        resolve(check_url("https://unknown.example/", allow_private=False), allow_private=False)


def test_the_connection_is_made_to_the_address_that_was_checked(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means 127.0.0.1 when it is asked again: it is not asked again."""
    names["rebind.example"] = [["8.8.8.8"], ["127.0.0.1"]]
    dialled = []

    def dial(address: tuple[str, int], _seconds: float) -> socket.socket:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", dial)
    with pytest.raises(NoAnswer):
        post(
            "https://rebind.example/hook",
            body=b"{}",
            headers={},
            allow_private=False,
            patience=Patience(),
        )
    assert dialled == [("8.8.8.8", 443)]
    assert names["rebind.example"] == [["127.0.0.1"]]
