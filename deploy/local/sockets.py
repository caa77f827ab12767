"""Loopback ports that are free, and folders whose paths are short enough for a Unix socket."""

import errno
import hashlib
import os
import random
import socket
import stat
from pathlib import Path

# Below every system's range for outgoing connections (32768 or 49152 and up): a client that keeps
# trying to reach a stopped server on a port of that range may in the end connect to itself.
LOWEST_PORT, HIGHEST_PORT = 12_000, 31_999
SOCKET_PATH_LIMIT = 103  # bytes: macOS has room for 104 with the closing zero, Linux for 108

_handed_out: set[int] = set()


def port_is_taken(port: int) -> bool:
    """Say whether something listens on 127.0.0.1:*port*, or we may not."""
    with socket.socket() as client:
        client.settimeout(1)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            return True
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return True
            raise
    return False


def free_port() -> int:
    """Return a loopback port that nothing listens on; never the same one twice in a process."""
    for _ in range(1000):
        port = random.randint(LOWEST_PORT, HIGHEST_PORT)
        if port not in _handed_out and not port_is_taken(port):
            _handed_out.add(port)
            return port
    raise RuntimeError(f"No free port between {LOWEST_PORT} and {HIGHEST_PORT}.")


def free_ports(count: int) -> list[int]:
    """Return *count* different free ports."""
    return [free_port() for _ in range(count)]


def socket_directory(preferred: Path, *, longest_name: str, owner: int | None = None) -> Path:
    """Return a private folder (0700) for a Unix socket: *preferred*, or one in /tmp if too long.

    With *owner* it is always in /tmp, for a server of another user who may not reach *preferred*.
    The one in /tmp is the same for the same *preferred*; it must be ours (or *owner*'s).
    """
    preferred = preferred.absolute()
    uid = os.geteuid() if owner is None else owner
    if owner is None and len(os.fsencode(preferred / longest_name)) <= SOCKET_PATH_LIMIT:
        preferred.mkdir(mode=0o700, parents=True, exist_ok=True)
        return preferred
    digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:16]
    short = Path("/tmp") / f"arrakis-{digest}"
    try:
        short.mkdir(mode=0o700)
    except FileExistsError:
        found = short.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (uid, os.geteuid()):
            raise PermissionError(f"{short} belongs to somebody else: remove it.") from None
    if owner is not None:
        os.chown(short, owner, -1)
    return short


def remove_socket_directory(directory: Path) -> None:
    """Remove what `socket_directory` made in /tmp; leave a folder of the caller's alone."""
    if directory.parent != Path("/tmp"):
        return
    try:
        for left_over in directory.iterdir():
            left_over.unlink()
        directory.rmdir()
    except OSError:
        return  # it is gone, or a next one uses it already
