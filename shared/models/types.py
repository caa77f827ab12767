"""Column types that mean the same on PostgreSQL and on SQLite's STRICT tables."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, DateTime, Integer, Numeric, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from shared.clock import from_stored, to_stored
from shared.money import CoinAmount

Micro = BigInteger().with_variant(Integer, "sqlite")
"""Micro-USD, or any other 64-bit integer."""


class UtcTime(TypeDecorator[datetime]):
    """An instant: timestamptz on PostgreSQL, ``YYYY-MM-DD HH:MM:SS[.ffffff]`` text on SQLite."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is not None and value.tzinfo is None:
            raise ValueError("a stored time must be aware of its zone")
        return value if value is None or dialect.name != "sqlite" else to_stored(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return from_stored(value) if isinstance(value, str) else value


class Flag(TypeDecorator[bool]):
    """True or false: boolean on PostgreSQL, 1 or 0 on SQLite."""

    impl = Boolean
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else Boolean())

    def process_result_value(self, value: Any, dialect: Dialect) -> bool | None:
        return None if value is None else bool(value)


class Coin(TypeDecorator[CoinAmount]):
    """An exact decimal of a provider: NUMERIC on PostgreSQL, text on SQLite (never a float)."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: CoinAmount | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name != "sqlite" else f"{value:f}"

    def process_result_value(self, value: Any, dialect: Dialect) -> CoinAmount | None:
        return None if value is None else CoinAmount(value)
