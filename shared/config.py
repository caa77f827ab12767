"""Settings of the processes, from the environment. The only module that reads it.

Each process builds the one settings object that it needs, at its start; a missing or short
secret stops it with a sentence that names the variable (contract 1).
"""

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.money import DEFAULT_CEILING_MICRO, MAX_AMOUNT_MICRO

MIN_SECRET_BYTES = 32
DEFAULT_DATABASE_URL = "sqlite:///data/sietch.db"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


_SECRET_FIELD = re.compile(r"secret|api_key|password|token")
_ADDRESS = re.compile(r'https?://[^"\s]+')


class SettingsError(SystemExit):
    """A setting is missing or wrong: the process must not start. Carries the sentence to print."""


def _secret(value: str) -> str:
    if len(value.strip().encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes")
    return value.strip()


def _optional_secret(value: str) -> str:
    return _secret(value) if value.strip() else ""


def _networks(value: str) -> str:
    _read_networks(value)
    return value


def _read_networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the addresses and networks that *value* lists, parted by commas."""
    return tuple(ip_network(one.strip()) for one in value.split(",") if one.strip())


Secret = Annotated[str, AfterValidator(_secret)]
OptionalSecret = Annotated[str, AfterValidator(_optional_secret)]
Networks = Annotated[str, AfterValidator(_networks)]


class CommonSettings(BaseModel):
    """What every process reads. Each field is the environment variable of the same name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    database_url: str = DEFAULT_DATABASE_URL
    redis_url: str = DEFAULT_REDIS_URL
    arrakis_log_level: str = "INFO"
    otel_exporter_otlp_endpoint: str = ""
    arrakis_database_pool: int = Field(default=20, ge=1, le=200)
    billing_ceiling_micro: int = Field(default=DEFAULT_CEILING_MICRO, ge=1, le=MAX_AMOUNT_MICRO)

    def secret_values(self) -> list[str]:
        """Return what no log may show: secrets, keys, passwords, and addresses that hold keys."""
        values = self.model_dump()
        found = [str(values[name]) for name in values if _SECRET_FIELD.search(name)]
        for url in (self.database_url, self.redis_url, self.otel_exporter_otlp_endpoint):
            password = urlsplit(url).password or ""
            found += [password, unquote(password)]  # as it is written, and as drivers repeat it
        found += _ADDRESS.findall(str(values.get("x402_networks", "")))
        return [value for value in found if value]


class OutgoingSettings(CommonSettings):
    """What a process needs that makes or signs outgoing webhooks. Without a secret they are off."""

    outgoing_webhook_secret: OptionalSecret = ""
    outgoing_webhook_secret_prev: OptionalSecret = ""
    arrakis_webhook_allow_private: bool = False


class ProviderSettings(CommonSettings):
    """What a process needs that talks to NOWPayments."""

    nowpayments_api_url: str = "https://api.nowpayments.io/v1"
    nowpayments_api_key: str = ""
    nowpayments_ipn_callback_url: str = ""
    nowpayments_email: str = ""
    nowpayments_password: str = ""
    payments_verify_before_credit: bool = True
    x402_networks: str = ""
    x402_quote_ttl_seconds: int = Field(default=300, ge=10, le=86_400)


class ApiSettings(ProviderSettings, OutgoingSettings):
    """Settings of the API service."""

    feature_billing_enabled: str = "false"
    billing_internal_jwt_secret: Secret
    billing_internal_jwt_secret_prev: OptionalSecret = ""
    billing_internal_jwks: str = ""
    billing_admin_jwt_secret: Secret
    billing_admin_jwt_secret_prev: OptionalSecret = ""
    billing_member_jwt_secret: Secret
    billing_member_jwt_secret_prev: OptionalSecret = ""
    arrakis_auto_migrate: bool | None = None
    arrakis_trusted_proxies: Networks = ""

    @property
    def is_billing_enabled(self) -> bool:
        """True only for the exact text ``true`` (behaviour 18)."""
        return self.feature_billing_enabled == "true"

    @property
    def trusted_proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """From where a request's X-Forwarded-For is believed; empty: from nowhere."""
        return _read_networks(self.arrakis_trusted_proxies)


class WebhookSettings(CommonSettings):
    """Settings of the webhook receiver."""

    nowpayments_ipn_secret: Secret
    nowpayments_ipn_secret_prev: OptionalSecret = ""


class WorkerSettings(ProviderSettings, OutgoingSettings):
    """Settings of the workers and of beat. Without a port no metrics are served."""

    arrakis_worker_memory_mb: int = Field(default=768, ge=128)
    arrakis_metrics_port: int = Field(default=0, ge=0, le=65_535)
    arrakis_metrics_address: str = "127.0.0.1"


class OperatorSettings(ProviderSettings, OutgoingSettings):
    """Settings of the ``arrakis`` command: it can make tokens when it has the secrets."""

    billing_internal_jwt_secret: OptionalSecret = ""
    billing_admin_jwt_secret: OptionalSecret = ""
    billing_member_jwt_secret: OptionalSecret = ""


class RemoteSettings(CommonSettings):
    """Where the ``arrakis`` command works if not on this host, and as whom."""

    arrakis_api_url: str = ""
    arrakis_api_token: str = ""


class DoctorSettings(ProviderSettings):
    """What ``arrakis doctor`` looks at: secrets of any length, so that it can say what is wrong."""

    feature_billing_enabled: str = "false"
    billing_internal_jwt_secret: str = ""
    billing_admin_jwt_secret: str = ""
    billing_member_jwt_secret: str = ""
    nowpayments_ipn_secret: str = ""
    outgoing_webhook_secret: str = ""


S = TypeVar("S", bound=CommonSettings)


def load_settings(kind: type[S], environment: Mapping[str, str] | None = None) -> S:
    """Build *kind* from the environment. Raises SettingsError naming each variable at fault."""
    read = {name: read_setting(name.upper(), environment) for name in kind.model_fields}
    wanted = {name: value for name, value in read.items() if value}
    try:
        return kind.model_validate(wanted)
    except ValidationError as error:
        faults = [
            f"{str(fault['loc'][0]).upper()} "
            + ("is not set" if fault["type"] == "missing" else _sentence(fault["msg"]))
            for fault in error.errors()
        ]
        raise SettingsError(f"Cannot start: {'; '.join(faults)}. See .env.example.") from error


def read_setting(name: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the setting *name*, or what the file holds that *name*_FILE names; empty if unset.

    So every setting can be a file, as orchestrators hand out secrets. Raises SettingsError if the
    file cannot be read, or if both are set: which one was meant is not ours to guess.
    """
    values = os.environ if environment is None else environment
    value, path = values.get(name, ""), values.get(f"{name}_FILE", "")
    if not path:
        return value
    if value:
        raise SettingsError(f"Cannot start: both {name} and {name}_FILE are set. Unset one.")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"Cannot start: {name}_FILE cannot be read ({reason}).") from error


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")


def database_url_from_environment() -> str:
    """Return DATABASE_URL, or the embedded default, for tools that need nothing else."""
    return read_setting("DATABASE_URL") or DEFAULT_DATABASE_URL
