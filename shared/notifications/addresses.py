"""Where a webhook may go: by https to public addresses, so that nobody reaches our network with it.

A name is resolved once for each try, all its addresses are checked, and the connection is made to
one of those: a name that means something else a moment later gains nothing (DNS rebinding).
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from shared.errors import Invalid

URL_MAX_CHARACTERS = 2000
_PORTS = (443, 8443)
_HTTPS_PORT, _HTTP_PORT = 443, 80
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*\.?")
# What a resolver may take for a number: 2130706433, 0x7f.1, 127.1, 010.0.0.1.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_QUERY, _USER = re.compile(r"[?#].*", re.DOTALL), re.compile(r"(?<=//)[^/]*@")
_IPV6_UNICAST = ip_network("2000::/3")
# Ways to another address that may count as public: 6to4 and its relays, Teredo; and protocols'.
_DETOURS = tuple(
    ip_network(one) for one in ("2002::/16", "192.88.99.0/24", "2001::/32", "192.0.0.0/24")
)


class UrlRefused(Invalid):
    """Webhooks are not sent to this URL."""

    code = "webhook_url_refused"


class HostUnknown(Invalid):
    """The name of the host means no address now."""

    code = "webhook_host_unknown"


@dataclass(frozen=True)
class Target:
    """A URL that passed its check, in parts; ``path`` has the query."""

    scheme: str
    host: str
    port: int
    path: str


def masked(url: str) -> str:
    """Return *url* for the audit log, which is kept for ever: without what may be a secret.

    That is its query, and the user before its host (which is refused).
    """
    return _USER.sub("***@", _QUERY.sub("?***", url))


def check_url(url: str, *, allow_private: bool) -> Target:
    """Return the parts of *url*. Raises UrlRefused unless webhooks may be sent to such a URL.

    With *allow_private* http and other ports are fine, too: for tests and the local stack.
    """
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(' \\"<>^`{|}')
    if not is_plain or len(url) > URL_MAX_CHARACTERS:
        raise UrlRefused("The URL has characters that a URL cannot have, or too many.")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise UrlRefused("This is not a URL.") from error
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise UrlRefused("Webhooks are sent by https only.")
    if "@" in parts.netloc or parts.fragment:
        raise UrlRefused("The URL must have no user, password or fragment.")
    usual = _HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT
    port = usual if port is None else port
    if not allow_private and port not in _PORTS:
        raise UrlRefused("The port must be 443 or 8443.")
    if not _is_host(host):
        raise UrlRefused("The URL names no host; write an IPv4 address in four decimal parts.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path)


def resolve(target: Target, *, allow_private: bool) -> list[str]:
    """Return the addresses of *target*, which are all allowed.

    Raises HostUnknown, or UrlRefused if one of them is not public.
    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostUnknown(f"The host {target.host} cannot be resolved.") from error
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:
        if not allow_private and not is_public(address):
            raise UrlRefused(f"The host {target.host} has an address that is not public.")
    return addresses


def is_public(address: str) -> bool:
    """Tell whether *address* is one of the internet's own, reached without a detour."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if isinstance(found, IPv6Address) and found not in _IPV6_UNICAST:
        return False  # NAT64 and IPv4-compatible forms are outside, too
    if any(found in detour for detour in _DETOURS if detour.version == found.version):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _is_host(host: str) -> bool:
    if ":" in host:
        return "%" not in host and _is_address(host)
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return _is_address(host)
    return _NAME.fullmatch(host) is not None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
