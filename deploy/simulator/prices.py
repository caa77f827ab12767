"""The fixed, invented price table: what a coin is worth, and amounts converted with it."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_UP, Decimal

ONE = Decimal(1)
OUTCOME_CURRENCY = "usdttrc20"
SERVICE_FEE = Decimal("0.005")
MINIMUM_USD = ONE


@dataclass(frozen=True)
class Coin:
    """A coin: its price in USD, the network that carries it, the decimals the network keeps."""

    usd: Decimal
    network: str
    decimals: int
    contract: str | None = None


COINS = {
    "btc": Coin(Decimal(64000), "btc", 8),
    "eth": Coin(Decimal(3200), "eth", 18),
    "ltc": Coin(Decimal(80), "ltc", 8),
    "sol": Coin(Decimal(160), "sol", 9),
    "doge": Coin(Decimal("0.16"), "doge", 8),
    "trx": Coin(Decimal("0.125"), "trx", 6),
    "matic": Coin(Decimal("0.5"), "matic", 18),
    "usdt": Coin(ONE, "eth", 6, "0xdac17f958d2ee523a2206206994597c13d831ec7"),
    "usdterc20": Coin(ONE, "eth", 6, "0xdac17f958d2ee523a2206206994597c13d831ec7"),
    "usdttrc20": Coin(ONE, "trx", 6, "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"),
    "usdc": Coin(ONE, "eth", 6, "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"),
    "usdcbase": Coin(ONE, "base", 6, "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"),
    "usdcmatic": Coin(ONE, "matic", 6, "0x3c499c542cef5e3811e1192ce70d8cc03d5c3359"),
}
FIAT_USD = {"usd": ONE, "eur": Decimal("1.08"), "gbp": Decimal("1.27")}


def usd_price(currency: str) -> Decimal | None:
    """Return what one unit of *currency* (coin or fiat, lower case) is worth, None if unknown."""
    coin = COINS.get(currency)
    return coin.usd if coin is not None else FIAT_USD.get(currency)


def coin_amount(usd: Decimal, coin_usd: Decimal) -> Decimal:
    """Return how much of a coin *usd* buys, rounded up at 8 decimals as the provider quotes."""
    return (usd / coin_usd).quantize(Decimal("1e-8"), ROUND_UP)


def outcome_of(usd: Decimal) -> tuple[Decimal, Decimal]:
    """Return (what the merchant gets, the service fee) in usdttrc20 for *usd* that arrived."""
    gross = usd.quantize(Decimal("1e-6"), ROUND_DOWN)
    fee = (gross * SERVICE_FEE).quantize(Decimal("1e-6"), ROUND_UP)
    return gross - fee, fee
