"""What is sold and for how much, as anyone may see it (behaviours 7.7 and 14.1)."""

from typing import Any

from sqlalchemy import or_, select

from shared.database import Tx
from shared.ledger.terms import Terms
from shared.models.ledger import GENERAL_POOL
from shared.models.operations import ConfigRow
from shared.money import usd_text
from shared.payments.policy import load_policy

_TIERS = {"tier_free": "0", "tier_starter": "5000000", "tier_pro": "50000000"}


def show_pricing(tx: Tx, terms: Terms) -> dict[str, Any]:
    """Return pools, rates, tiers and the mode in force; ``rate_*`` and ``tier_*`` are settings."""
    settings = {row.key: row.value for row in tx.all(_LISTED)}
    tiers = _TIERS | {key: value for key, value in settings.items() if key.startswith("tier_")}
    return {
        "pools": {
            GENERAL_POOL: {"name": "General", "description": "Credits for every model."},
        },
        "rates": {
            key.removeprefix("rate_"): value
            for key, value in settings.items()
            if key.startswith("rate_")
        },
        "tiers": [
            {"name": key.removeprefix("tier_").capitalize(), "amountMicro": value}
            for key, value in tiers.items()
        ],
        "models": {
            name: {
                "inputMicroPer1k": str(price.input_micro),
                "outputMicroPer1k": str(price.output_micro),
            }
            for name, price in terms.model_prices.items()
        },
        "billingMode": terms.mode,
    }


def show_packs(tx: Tx) -> dict[str, Any]:
    """Return the credit packs, cheapest first. Raises Unavailable if they make no sense."""
    packs = sorted(load_policy(tx).packs.values(), key=lambda pack: (pack.price_micro, pack.id))
    return {
        "packs": [
            {
                "packId": pack.id,
                "priceUsd": usd_text(pack.price_micro),
                "priceMicro": str(pack.price_micro),
                "creditMicro": str(pack.credit_micro),
                "bonusBps": pack.bonus_bps,
            }
            for pack in packs
        ]
    }


_LISTED = (
    select(ConfigRow.key, ConfigRow.value)
    .where(
        or_(
            ConfigRow.key.like("rate\\_%", escape="\\"), ConfigRow.key.like("tier\\_%", escape="\\")
        )
    )
    .order_by(ConfigRow.key)
)
