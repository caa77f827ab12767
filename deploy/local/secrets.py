"""The secrets of a local run: generated once into a git-ignored file, and used again after that."""

import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

LENGTHS = {  # bytes of randomness; a secret for signing needs 32 characters at least
    "BILLING_INTERNAL_JWT_SECRET": 48,
    "BILLING_ADMIN_JWT_SECRET": 48,
    "BILLING_MEMBER_JWT_SECRET": 48,
    "NOWPAYMENTS_IPN_SECRET": 48,
    "NOWPAYMENTS_API_KEY": 48,
    "OUTGOING_WEBHOOK_SECRET": 48,
    "ARRAKIS_FLOWER_PASSWORD": 15,
}


def local_secrets(data_directory: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return every secret by name, creating those that `local.env` in *data_directory* lacks.

    A variable that *environment* sets wins, and is not written down. Other lines of the file stay.
    """
    data_directory.mkdir(parents=True, exist_ok=True)
    path = data_directory / "local.env"
    with (data_directory / "local.env.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stored = _read(path)
        missing = {
            name: secrets.token_urlsafe(length)
            for name, length in LENGTHS.items()
            if not stored.get(name)
        }
        if missing:
            _append(path, missing)
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
    found = stored | missing
    return {name: environment.get(name) or found[name] for name in LENGTHS}


def _read(path: Path) -> dict[str, str]:
    """Return the KEY=VALUE lines of *path*; nothing if there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}


def _append(path: Path, values: Mapping[str, str]) -> None:
    """Replace *path* in one step by itself and *values*, readable by its owner only."""
    before = path.read_text() if path.exists() else "# Secrets of the local stack. Keep private.\n"
    if before and not before.endswith("\n"):
        before += "\n"
    replace_private(path, before + "".join(f"{name}={value}\n" for name, value in values.items()))


def replace_private(path: Path, text: str) -> None:
    """Write *text* to *path* (mode 0600) so that a reader sees the old or the new, never a part."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
