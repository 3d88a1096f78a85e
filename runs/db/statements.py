"""Statements that are the same every time, prepared once.

Django builds each INSERT and UPDATE anew, which costs ten times what the database takes for it
(0.3-0.5 ms against 0.03-0.05). A run makes three of them in its life, so they decide how many runs
a process can take through a second; and whoever waits for a stop waits for each of its statements.
Values are still prepared, and read, by the models' own fields.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connection, models
from django.db.backends.utils import CursorWrapper
from django.db.models.expressions import Col

__all__ = [
    "Expression",
    "insert",
    "insert_rows",
    "read_keys",
    "update_and_read",
    "update_rows",
]

M = TypeVar("M", bound=models.Model)


@dataclass(frozen=True, slots=True)
class Expression:
    """A value that the database works out; ``sql`` is the same each time, as it is prepared."""

    sql: str
    arguments: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Insertion:
    """A row for another table, one for each row that a statement updates.

    A value that is an ``Expression`` without arguments may name columns of the updated row.
    """

    into: type[models.Model]
    row: Mapping[str, Any]


def uuid_as_text(column: str) -> str:
    """Return SQL for a key as ``str(uuid)`` writes it."""
    if connection.features.has_native_uuid_field:
        return f"CAST({column} AS text)"
    parts = [(1, 8), (9, 4), (13, 4), (17, 4), (21, 12)]
    return " || '-' || ".join(f"SUBSTR({column}, {start}, {count})" for start, count in parts)


def insert(instance: models.Model, **computed: Expression) -> None:
    """Insert a new row whose primary key is set: ``save(force_insert=True)`` without signals.

    The fields in ``computed`` are the database's to fill; ``instance`` does not hear of them.
    """
    names = tuple(field.name for field in instance._meta.concrete_fields)
    texts = tuple((name, expression.sql) for name, expression in computed.items())
    sql, fields = _insert_statement(type(instance), names, texts)
    values: list[Any] = []
    for field in fields:
        if field.name in computed:
            values += computed[field.name].arguments
        else:
            values.append(field.get_db_prep_save(getattr(instance, field.attname), connection))
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
    instance._state.adding = False
    instance._state.db = connection.alias


def insert_rows(
    model: type[models.Model], names: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    """Insert many rows of the fields ``names``; the database makes up the other columns."""
    if rows:
        sql, fields = _insert_statement(model, names)
        with connection.cursor() as cursor:
            _execute(cursor, sql, [_prepared(fields, row) for row in rows])


def update_rows(
    model: type[models.Model],
    condition: str,
    rows: Sequence[tuple[Mapping[str, Any], Sequence[Any]]],
) -> int:
    """Update rows one by one with one statement; return how many were changed in all.

    Each row has its values by the names of the model's fields, the same ones in each, and the
    parameters of ``condition``, which is SQL: ``"id = %s AND status = 'running'"``.
    """
    if not rows:
        return 0
    names = tuple(rows[0][0])
    sql, fields = _update_statement(model, names, condition)
    parameters = [
        [*_prepared(fields, [values[name] for name in names]), *arguments]
        for values, arguments in rows
    ]
    with connection.cursor() as cursor:
        _execute(cursor, sql, parameters)
        return int(cursor.rowcount)


def update_and_read(
    model: type[M],
    condition: str,
    values: Mapping[str, Any],
    keys: Collection[uuid.UUID],
    names: tuple[str, ...],
    *,
    insertion: Insertion | None = None,
) -> list[M]:
    """Update the rows that meet ``condition``; return the fields ``names`` of them, as updated.

    ``keys`` are the parameters of the condition. A value that is an ``Expression`` without
    arguments may name columns of the row. With ``insertion`` a row is inserted for each updated
    one: by the same statement on PostgreSQL, else by a second one, in the caller's transaction.
    """
    computed, given = _split(values)
    sql, fields, wanted = _update_and_read_statement(
        model, tuple(values), condition, names, computed
    )
    parameters = [*_prepared(fields, given), *map(_prepared_key, keys)]
    is_one = insertion is not None and connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        if insertion is not None and is_one:
            into, more = _insertion(insertion, "updated")
            sql = f"WITH updated AS ({sql}), inserted AS ({into}) SELECT * FROM updated"  # noqa: S608
            parameters += more
        cursor.execute(sql, parameters)
        rows = cursor.fetchall()
        attributes = [field.attname for field in wanted]
        updated = [
            model.from_db(connection.alias, attributes, [*map(_read, wanted, row)]) for row in rows
        ]
        if insertion is not None and not is_one and updated:
            places = ", ".join(["%s"] * len(updated))
            table = model._meta.db_table
            into, more = _insertion(insertion, f'"{table}" WHERE id IN ({places})')
            cursor.execute(into, [*more, *[_prepared_key(row.pk) for row in updated]])
    return updated


def _insertion(insertion: Insertion, source: str) -> tuple[str, list[Any]]:
    """Return the INSERT of one row for each row of ``source``, and its parameters."""
    computed, given = _split(insertion.row)
    sql, fields = _insert_selected_statement(insertion.into, tuple(insertion.row), computed, source)
    return sql, _prepared(fields, given)


def _split(values: Mapping[str, Any]) -> tuple[tuple[tuple[str, str], ...], list[Any]]:
    """Part the values that the database computes from those that are parameters."""
    computed = tuple((name, v.sql) for name, v in values.items() if isinstance(v, Expression))
    return computed, [v for v in values.values() if not isinstance(v, Expression)]


def _read(field: models.Field, value: Any) -> Any:
    column, converters = _converters(field, connection.vendor)
    for convert in converters:
        value = convert(value, column, connection)
    return value


@functools.cache
def _converters(field: models.Field, vendor: str) -> tuple[Col, list[Callable[..., Any]]]:
    column = field.get_col(field.model._meta.db_table)  # a foreign key's is of its target's type
    found = [*connection.ops.get_db_converters(column), *column.get_db_converters(connection)]
    return column, found


def read_keys(sql: str, keys: Collection[uuid.UUID]) -> list[tuple[uuid.UUID, ...]]:
    """Return the rows, all of keys, that ``sql`` finds; its ``{}`` stands for the set ``keys``."""
    if not keys:
        return []
    places = ", ".join(["%s"] * len(keys))
    with connection.cursor() as cursor:
        cursor.execute(sql.format(f"({places})"), [_prepared_key(key) for key in keys])
        rows = cursor.fetchall()
    if rows and not isinstance(rows[0][0], uuid.UUID):  # SQLite has none
        return [tuple(uuid.UUID(value) for value in row) for row in rows]
    return list(rows)


def _execute(cursor: CursorWrapper, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    if len(rows) == 1:  # many are a pipeline, which takes a third of a millisecond to set up
        cursor.execute(sql, rows[0])
    else:
        cursor.executemany(sql, rows)


def _prepared_key(key: uuid.UUID) -> Any:
    return key if connection.features.has_native_uuid_field else key.hex


def _prepared(fields: Sequence[models.Field], values: Sequence[Any]) -> list[Any]:
    return [
        field.get_db_prep_save(value, connection)
        for field, value in zip(fields, values, strict=True)
    ]


def _columns(model: type[models.Model], names: tuple[str, ...]) -> tuple[models.Field, ...]:
    by_name = {field.name: field for field in model._meta.concrete_fields}
    return tuple(by_name[name] for name in names)


# Names in these come from our own models; values always go in as parameters.


@functools.cache
def _insert_statement(
    model: type[models.Model],
    names: tuple[str, ...],
    computed: tuple[tuple[str, str], ...] = (),
) -> tuple[str, tuple[models.Field, ...]]:
    fields = _columns(model, names)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    texts = dict(computed)
    places = ", ".join(texts.get(name, "%s") for name in names)
    return f'INSERT INTO "{model._meta.db_table}" ({columns}) VALUES ({places})', fields  # noqa: S608


@functools.lru_cache(maxsize=1024)
def _update_statement(
    model: type[models.Model],
    names: tuple[str, ...],
    condition: str,
    computed: tuple[tuple[str, str], ...] = (),
) -> tuple[str, tuple[models.Field, ...]]:
    fields = _columns(model, names)
    texts = dict(computed)
    places = ", ".join(f'"{field.column}" = {texts.get(field.name, "%s")}' for field in fields)
    given = tuple(field for field in fields if field.name not in texts)
    return f'UPDATE "{model._meta.db_table}" SET {places} WHERE {condition}', given  # noqa: S608


@functools.lru_cache(maxsize=1024)
def _update_and_read_statement(
    model: type[models.Model],
    values: tuple[str, ...],
    condition: str,
    names: tuple[str, ...],
    computed: tuple[tuple[str, str], ...],
) -> tuple[str, tuple[models.Field, ...], tuple[models.Field, ...]]:
    update, fields = _update_statement(model, values, condition, computed)
    # In the order of the model's own, as from_db() takes them.
    wanted = tuple(
        field for field in model._meta.concrete_fields if field.name in names or field.primary_key
    )
    columns = ", ".join(f'"{field.column}"' for field in wanted)
    return f"{update} RETURNING {columns}", fields, wanted


@functools.lru_cache(maxsize=1024)
def _insert_selected_statement(
    model: type[models.Model],
    names: tuple[str, ...],
    computed: tuple[tuple[str, str], ...],
    source: str,
) -> tuple[str, tuple[models.Field, ...]]:
    fields = _columns(model, names)
    texts = dict(computed)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(texts.get(field.name, "%s") for field in fields)
    given = tuple(field for field in fields if field.name not in texts)
    return f'INSERT INTO "{model._meta.db_table}" ({columns}) SELECT {places} FROM {source}', given  # noqa: S608
