"""Lists as one parameter of a statement, so that it is prepared once whatever their length."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, literal_column
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from shared.money import CoinAmount


class _TextArray(UserDefinedType[str]):
    """``text[]``, given as its literal."""

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: Any) -> str:
        return "TEXT[]"


class TextSet(TypeDecorator[Sequence[str]]):
    """A list of texts as one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else _TextArray())

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        texts = list(value or ())
        return json.dumps(texts) if dialect.name == "sqlite" else array_literal(texts)


def array_literal(values: Sequence[Any]) -> str:
    """Write *values*, all of one type, as PostgreSQL reads an array.

    The driver's own way takes five times as long, which was a third of what a batch costs.
    """
    if not values:
        return "{}"
    first, count = values[0], len(values)
    kinds = set(map(type, values))
    if CoinAmount in kinds:  # of which equal ones may be written differently
        return f"{{{','.join(map(_element, values))}}}"
    if values.count(first) == count:  # often NULL, zero, or one time
        return f"{{{','.join([_element(first)] * count)}}}"
    if kinds == {int}:
        return f"{{{str(list(values))[1:-1]}}}"
    if kinds == {str}:
        text = "\0".join(values)  # which no text has that PostgreSQL can store
        if text.count("\0") == count - 1:
            if "\\" in text or '"' in text:
                text = text.replace("\\", "\\\\").replace('"', '\\"')
            return '{"' + text.replace("\0", '","') + '"}'
    elements = {value: _element(value) for value in set(values)}
    return f"{{{','.join([elements[value] for value in values])}}}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    assert isinstance(value, str | int | datetime | CoinAmount)  # whose text PostgreSQL reads
    text = str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _MemberOf(FunctionElement[bool]):
    inherit_cache = True


def constant(word: str | int) -> ColumnElement[Any]:
    """Return *word*, which no caller has a say in, as part of the statement's text.

    A plan is made once for all parameters, so it cannot use the index of a condition, such as
    ``status = 'pending'``, whose word is a parameter; nor does it know a LIMIT that is one.
    """
    assert str(word).replace("_", "").isalnum()
    return literal_column(str(word) if isinstance(word, int) else f"'{word}'")


def member_of(column: Any, parameter: str) -> ColumnElement[bool]:
    """Return the condition that *column* is one of the texts given as *parameter*.

    One parameter whatever the number of texts, so the statement is prepared once.
    """
    return _MemberOf(column, bindparam(parameter, type_=TextSet()))


@compiles(_MemberOf, "postgresql")
def _member_of_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    column, values = element.clauses
    return f"{compiler.process(column, **options)} = ANY ({compiler.process(values, **options)})"


@compiles(_MemberOf, "sqlite")
def _member_of_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    column, values = element.clauses
    listed = f"SELECT value FROM json_each({compiler.process(values, **options)})"  # noqa: S608  ours
    return f"{compiler.process(column, **options)} IN ({listed})"
