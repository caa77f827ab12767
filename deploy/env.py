"""``make env``: writes .env and secrets/ for docker-compose.yml, once. Needs Python alone.

What is there stays as it is, so that it can be run again after an update that needs more secrets.
"""

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

SIGNING_BYTES = 48
SETTINGS = """\
# Settings of docker-compose.yml that are no secrets; those are in secrets/ (docs/deployment.md).

# The public name; its DNS entry must point here, for the certificate.
ARRAKIS_DOMAIN=localhost
# From which networks /admin/billing is reached through the front, parted by spaces. For this host
# itself add 172.30.80.1/32; not on a host where callers of the whole world come from that address
# (with public IPv6, or rootless).
ARRAKIS_ADMIN_NETWORKS="10.0.0.0/8 192.168.0.0/16 fd00::/8"
# Which images: a release of ours.
ARRAKIS_VERSION={version}
# For a demonstration: http://simulator:8100/v1 and docker compose --profile simulator up
NOWPAYMENTS_API_URL=https://api.nowpayments.io/v1
"""
GENERATED = (
    "database_password",
    "redis_password",
    "billing_internal_jwt_secret",
    "billing_admin_jwt_secret",
    "billing_member_jwt_secret",
    "outgoing_webhook_secret",
    "grafana_password",
    # The provider's dashboard gives you these two; until then they fit the simulator only.
    "nowpayments_api_key",
    "nowpayments_ipn_secret",
)
OPTIONAL = (
    "billing_internal_jwt_secret_prev",
    "billing_admin_jwt_secret_prev",
    "billing_member_jwt_secret_prev",
    "nowpayments_ipn_secret_prev",
    "outgoing_webhook_secret_prev",
    "nowpayments_email",
    "nowpayments_password",
    "x402_networks",
)


def write_environment(root: Path, version: str) -> list[Path]:
    """Write what *root* lacks of .env and secrets/; return the files that were made."""
    folder = root / "secrets"
    # Only its owner may enter, so the files can be readable: the users in the containers read them.
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    made = [
        *_missing(folder, {name: secrets.token_urlsafe(SIGNING_BYTES) for name in GENERATED}),
        *_missing(folder, dict.fromkeys(OPTIONAL, "")),
    ]
    database = (folder / "database_password").read_text().strip()
    redis = (folder / "redis_password").read_text().strip()
    derived = {
        "database_url": f"postgresql+psycopg://arrakis:{database}@postgres:5432/arrakis",
        "redis_url": f"redis://:{redis}@redis:6379/0",
        "flower_basic_auth": f"admin:{secrets.token_urlsafe(24)}",
    }
    made += _missing(folder, derived)
    return made + _missing(root, {".env": SETTINGS.format(version=version).rstrip()}, mode=0o600)


def _missing(folder: Path, contents: Mapping[str, str], mode: int = 0o444) -> list[Path]:
    paths = [folder / name for name in contents if not (folder / name).exists()]
    for path in paths:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "w") as file:
            text = contents[path.name]
            file.write(f"{text}\n" if text else "")
        path.chmod(mode)  # whatever the umask
    return paths


def main() -> None:
    """Write the files beside docker-compose.yml, and say what was made."""
    root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(root))
    from shared.version import VERSION  # noqa: PLC0415  found beside us, installed or not

    made = write_environment(root, VERSION)
    if made:
        print(f"Made {len(made)} of .env and the files in secrets/; what was there is as it was.")
    else:
        print("Nothing to do: .env and secrets/ are complete.")


if __name__ == "__main__":
    main()
