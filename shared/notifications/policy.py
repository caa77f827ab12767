"""When accounts are worth a word: the settings of their events, as ``billing_config`` has them."""

from dataclasses import dataclass

from sqlalchemy import select

from shared.database import Tx
from shared.errors import Unavailable
from shared.models.operations import ConfigRow

LOW_BALANCE_KEY, EXPIRY_KEY = "low_balance_threshold_micro", "expiry_notice_hours"
_THRESHOLD_DIGITS_MAX, _HOURS_DIGITS_MAX = 16, 4


@dataclass(frozen=True)
class WatchPolicy:
    """Below what an account is low, and how long before its end a lot is told of; 0 means never."""

    low_balance_threshold_micro: int
    expiry_notice_hours: int


def load_policy(tx: Tx) -> WatchPolicy:
    """Return the policy in force. Raises Unavailable (``config_invalid``) if it makes no sense."""
    values = {row.key: row.value for row in tx.all(_ROWS)}
    try:
        return WatchPolicy(
            read_threshold(values.get(LOW_BALANCE_KEY, "0")),
            read_hours(values.get(EXPIRY_KEY, "0")),
        )
    except ValueError as error:
        raise Unavailable(f"{error}.", code="config_invalid") from error


def read_threshold(written: str) -> int:
    """Read ``low_balance_threshold_micro``. Raises ValueError unless it is a whole number."""
    return _whole(LOW_BALANCE_KEY, written, _THRESHOLD_DIGITS_MAX)


def read_hours(written: str) -> int:
    """Read ``expiry_notice_hours``. Raises ValueError unless it is a whole number up to 9999."""
    return _whole(EXPIRY_KEY, written, _HOURS_DIGITS_MAX)


def _whole(key: str, written: str, digits_max: int) -> int:
    if not written.isascii() or not written.isdigit() or len(written) > digits_max:
        raise ValueError(f"{key} is {written[:40]!r}, not a whole number")
    return int(written)


_ROWS = select(ConfigRow.key, ConfigRow.value).where(
    ConfigRow.key.in_((LOW_BALANCE_KEY, EXPIRY_KEY))
)
