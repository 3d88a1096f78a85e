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
    "Insertion",
    "insert",
    "insert_rows",
    "read_keys",
    "update_and_read",
    "update_insert_and_read",
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
    """A row for another table than the one that is updated.

    Values that are an ``Expression`` without arguments may name columns of the updated row.
    """

    into: type[models.Model]
    row: Mapping[str, Any]


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
    arguments: Sequence[uuid.UUID],
    names: tuple[str, ...],
) -> M | None:
    """Update the row that meets ``condition``, if one does; return the fields ``names`` of it.

    They are as they stand behind the update. ``arguments`` are the parameters of the condition.
    """
    sql, fields, wanted = _update_and_read_statement(model, tuple(values), condition, names)
    parameters = [*_prepared(fields, list(values.values())), *map(_prepared_key, arguments)]
    return _read_one(model, wanted, sql, parameters)


def update_insert_and_read(
    model: type[M],
    condition: str,
    values: Mapping[str, Any],
    arguments: Sequence[Any],
    names: tuple[str, ...],
    insertion: Insertion,
) -> M | None:
    """As ``update_and_read``, and insert a row into another table if a row was updated.

    One statement, and so one transaction if the caller has none: PostgreSQL's alone.
    """
    update, fields, wanted = _update_and_read_statement(model, tuple(values), condition, names)
    row = insertion.row
    places = tuple(v.sql if isinstance(v, Expression) else "%s" for v in row.values())
    insert, targets = _insert_selected_statement(insertion.into, tuple(row), places, "updated")
    given = zip(targets, row.values(), strict=True)
    parameters = [
        *_prepared(fields, list(values.values())),
        *arguments,
        *[
            field.get_db_prep_save(value, connection)
            for field, value in given
            if not isinstance(value, Expression)
        ],
    ]
    text = f"WITH updated AS ({update}), inserted AS ({insert}) SELECT * FROM updated"  # noqa: S608
    return _read_one(model, wanted, text, parameters)


def _read_one(
    model: type[M], fields: Sequence[models.Field], sql: str, parameters: Sequence[Any]
) -> M | None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
    if row is None:
        return None
    read = [_read(field, value) for field, value in zip(fields, row, strict=True)]
    return model.from_db(connection.alias, [field.attname for field in fields], read)


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


@functools.cache
def _update_statement(
    model: type[models.Model], names: tuple[str, ...], condition: str
) -> tuple[str, tuple[models.Field, ...]]:
    fields = _columns(model, names)
    assignments = ", ".join(f'"{field.column}" = %s' for field in fields)
    return f'UPDATE "{model._meta.db_table}" SET {assignments} WHERE {condition}', fields  # noqa: S608


@functools.cache
def _update_and_read_statement(
    model: type[models.Model], values: tuple[str, ...], condition: str, names: tuple[str, ...]
) -> tuple[str, tuple[models.Field, ...], tuple[models.Field, ...]]:
    update, fields = _update_statement(model, values, condition)
    # In the order of the model's own, as from_db() takes them.
    wanted = tuple(field for field in model._meta.concrete_fields if field.name in names)
    columns = ", ".join(f'"{field.column}"' for field in wanted)
    return f"{update} RETURNING {columns}", fields, wanted


@functools.cache
def _insert_selected_statement(
    model: type[models.Model], names: tuple[str, ...], places: tuple[str, ...], source: str
) -> tuple[str, tuple[models.Field, ...]]:
    fields = _columns(model, names)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    selected = ", ".join(places)
    table = model._meta.db_table
    return f'INSERT INTO "{table}" ({columns}) SELECT {selected} FROM {source}', fields  # noqa: S608
