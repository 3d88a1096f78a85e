"""Statements that are the same every time, prepared once.

Django builds the text of each INSERT and UPDATE again. That costs ten times what the database takes
to execute it (0.3-0.5 ms against 0.03-0.05). A run makes three of them, so they limit how many runs
a process executes in a second; and a person who stops a run waits for each statement of the stop.
The models' own fields still prepare and read the values.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db import connections, models
from django.db.backends.utils import CursorWrapper
from django.db.models.expressions import Col

from runs.db.alias import alias, atomic, connection

__all__ = [
    "Expression",
    "Insertion",
    "as_parameter",
    "columns_of",
    "converted",
    "insert",
    "insert_instances",
    "insert_rows",
    "made_of",
    "one_statement",
    "read_by_key",
    "read_keys",
    "update_and_read",
    "update_rows",
    "uuid_as_text",
]

M = TypeVar("M", bound=models.Model)


@dataclass(frozen=True, slots=True)
class Expression:
    """A value that the database computes. ``sql`` is a constant: statements are cached by it."""

    sql: str
    arguments: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Insertion:
    """A row of another table, to insert once for each row that a statement updates.

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


def as_parameter(value: uuid.UUID | datetime) -> Any:
    """Return a key or an instant as the parameter of a statement that no model prepares."""
    if isinstance(value, datetime):
        return connection.ops.adapt_datetimefield_value(value)
    return value if connection.features.has_native_uuid_field else value.hex


def insert(instance: models.Model, *also: models.Model, **computed: Expression) -> None:
    """Insert a new row whose primary key is set: ``save(force_insert=True)`` without signals.

    The database fills the fields in ``computed``; ``instance`` does not get their values. Also
    inserts ``also``, rows of other tables: by the same statement on PostgreSQL, which is a
    transaction by itself, else by further ones.
    """
    first, *others = [
        _insertion_of(one, computed if one is instance else {}) for one in (instance, *also)
    ]
    with connection.cursor() as cursor:
        if others and connection.vendor == "postgresql":
            named = [f"inserted_{number} AS ({sql})" for number, (sql, _) in enumerate(others)]
            parameters = [value for _, some in (*others, first) for value in some]
            cursor.execute(f"WITH {', '.join(named)} {first[0]}", parameters)
        else:
            for sql, some in (first, *others):
                cursor.execute(sql, some)
    for one in (instance, *also):
        one._state.adding = False
        one._state.db = alias()


def one_statement() -> contextlib.AbstractContextManager[object]:
    """Return the transaction for a body that executes one of these functions, once.

    PostgreSQL needs none: its statement is one. That saves two trips.
    """
    return contextlib.nullcontext() if connection.vendor == "postgresql" else atomic()


def insert_instances(instances: Sequence[models.Model]) -> None:
    """Insert new rows of one model, by one statement that is executed many times."""
    if not instances:
        return
    fields = instances[0]._meta.concrete_fields
    names = tuple(field.name for field in fields)
    attributes = [field.attname for field in fields]
    rows = [[getattr(instance, name) for name in attributes] for instance in instances]
    insert_rows(type(instances[0]), names, rows)
    for instance in instances:
        instance._state.adding = False
        instance._state.db = alias()


def insert_rows(
    model: type[models.Model], names: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    """Insert many rows of the fields ``names``; the database fills the other columns."""
    if not rows:
        return
    sql, fields = _insert_statement(model, names)
    prepared = [_prepared(fields, row) for row in rows]
    with connection.cursor() as cursor:
        if len(rows) > 1 and connection.vendor == "postgresql":
            cursor.execute(
                _insert_arrays_statement(model, names),
                [list(column) for column in zip(*prepared, strict=True)],
            )
        else:
            _execute(cursor, sql, prepared)


def update_rows(
    model: type[models.Model],
    condition: str,
    rows: Sequence[tuple[Mapping[str, Any], Sequence[Any]]],
) -> int:
    """Update rows one by one with one statement; return how many it changed.

    Each row has its values by the names of the model's fields, the same names in each row, and the
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
    insertions: Sequence[Insertion] = (),
) -> list[M]:
    """Update the rows that meet ``condition``; return the fields ``names`` of them, as updated.

    ``keys`` are the parameters of the condition. A value that is an ``Expression`` without
    arguments may name columns of the row. Each of ``insertions`` inserts a row for each updated
    row: by the same statement on PostgreSQL, else by further ones, in the caller's transaction.
    """
    sql, fields, wanted = _update_and_read_statement(
        model, tuple(values), condition, names, _computed(values)
    )
    parameters = [*_parameters(fields, values), *map(as_parameter, keys)]
    is_one = bool(insertions) and connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        if is_one:
            parts = [f"WITH updated AS ({sql})"]
            for number, insertion in enumerate(insertions):
                into, more = _insertion(insertion.into, insertion.row, "updated")
                parts.append(f"inserted_{number} AS ({into})")
                parameters += more
            sql = f"{', '.join(parts)} SELECT * FROM updated"  # noqa: S608
        cursor.execute(sql, parameters)
        attributes = [field.attname for field in wanted]
        updated = [
            # Not the connection's own alias: a stop may use another one (db.lending).
            model.from_db(alias(), attributes, converted(wanted, row))
            for row in cursor.fetchall()
        ]
        if insertions and updated and not is_one:
            places = ", ".join(["%s"] * len(updated))
            source = f'"{model._meta.db_table}" WHERE id IN ({places})'
            keys = [as_parameter(row.pk) for row in updated]
            for insertion in insertions:
                into, more = _insertion(insertion.into, insertion.row, source)
                cursor.execute(into, [*more, *keys])
    return updated


def _insertion(
    model: type[models.Model], values: Mapping[str, Any], source: str = ""
) -> tuple[str, list[Any]]:
    """Return the INSERT of one row, or of one for each row of ``source``; and its parameters."""
    sql, fields = _insert_statement(model, tuple(values), _computed(values), source)
    return sql, _parameters(fields, values)


def _insertion_of(
    instance: models.Model, computed: Mapping[str, Expression]
) -> tuple[str, list[Any]]:
    """Return the INSERT of an instance. What is empty is a part of its text, not a parameter.

    Most fields of a new row are, and psycopg takes a text of more than 50 parameters apart anew
    each time, for longer than PostgreSQL needs to execute it.
    """
    values: dict[str, Any] = {}
    for field in instance._meta.concrete_fields:
        value = getattr(instance, field.attname)
        values[field.name] = computed.get(field.name) or _literal(field, value) or value
    return _insertion(type(instance), values)


def _literal(field: models.Field, value: object) -> Expression | None:
    """Return an empty value as SQL; None for any other one."""
    if value is None:
        return _NULL
    if isinstance(field, models.JSONField):
        return None
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if type(value) is str and not value:
        return _EMPTY
    return _ZERO if type(value) is int and not value else None


_NULL, _TRUE, _FALSE = Expression("NULL"), Expression("TRUE"), Expression("FALSE")
_EMPTY, _ZERO = Expression("''"), Expression("0")


def _computed(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the values that the database computes, each as its name and its SQL."""
    return tuple((name, v.sql) for name, v in values.items() if isinstance(v, Expression))


def _parameters(fields: Sequence[models.Field], values: Mapping[str, Any]) -> list[Any]:
    parameters: list[Any] = []
    database = connections[alias()]  # the proxy makes each use of it slower
    for field in fields:
        value = values[field.name]
        if isinstance(value, Expression):
            parameters += value.arguments
        else:
            parameters.append(field.get_db_prep_save(value, database))
    return parameters


def converted(fields: tuple[models.Field, ...], row: Sequence[Any]) -> list[Any]:
    """Return what the database gave for ``fields`` as the values of a model."""
    values = list(row)
    for position, column, convert in _converters(fields, connection.vendor):
        values[position] = convert(values[position], column, connection)
    return values


@functools.cache
def _converters(
    fields: tuple[models.Field, ...], vendor: str
) -> list[tuple[int, Col, Callable[..., Any]]]:
    """Return the conversions in the order to apply them; PostgreSQL needs few."""
    found = []
    for position, field in enumerate(fields):
        column = field.get_col(field.model._meta.db_table)  # for a foreign key, of its target
        of_database = connection.ops.get_db_converters(column)
        converters = [*of_database, *column.get_db_converters(connection)]
        found += [(position, column, convert) for convert in converters]
    return found


@functools.cache
def columns_of(model: type[models.Model]) -> str:
    """Return the names of all columns of a model, for what ``made_of`` reads."""
    return ", ".join(f'"{field.column}"' for field in model._meta.concrete_fields)


def made_of(model: type[M], rows: Collection[Sequence[Any]]) -> list[M]:
    """Return instances of rows that have ``columns_of`` the model."""
    fields = model._meta.concrete_fields
    names = [field.attname for field in fields]
    return [model.from_db(alias(), names, converted(fields, row)) for row in rows]


def read_by_key(
    model: type[M], column: str, keys: Collection[uuid.UUID], *, order_and_lock: str = ""
) -> list[M]:
    """Return the rows of a model whose ``column`` is one of ``keys``.

    ``order_and_lock`` is SQL, the end of the statement; without it they come in any order. The ORM
    takes milliseconds to compose a query of a run, which has 70 columns, and this takes none.
    """
    if not keys:
        return []
    places = ", ".join(["%s"] * len(keys))
    source = f'"{model._meta.db_table}" WHERE "{column}" IN ({places}) {order_and_lock}'
    sql = f"SELECT {columns_of(model)} FROM {source}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [as_parameter(key) for key in keys])
        return made_of(model, cursor.fetchall())


def read_keys(sql: str, keys: Collection[uuid.UUID]) -> list[tuple[uuid.UUID, ...]]:
    """Return the rows that ``sql`` finds, all of keys; its ``{}`` stands for the set ``keys``."""
    if not keys:
        return []
    places = ", ".join(["%s"] * len(keys))
    with connection.cursor() as cursor:
        cursor.execute(sql.format(f"({places})"), [as_parameter(key) for key in keys])
        rows = cursor.fetchall()
    if rows and not isinstance(rows[0][0], uuid.UUID):  # SQLite stores text
        return [tuple(uuid.UUID(value) for value in row) for row in rows]
    return list(rows)


def _execute(cursor: CursorWrapper, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    if len(rows) == 1:  # executemany() sets up a pipeline, which takes a third of a millisecond
        cursor.execute(sql, rows[0])
    else:
        cursor.executemany(sql, rows)


def _prepared(fields: Sequence[models.Field], values: Sequence[Any]) -> list[Any]:
    database = connections[alias()]
    return [
        field.get_db_prep_save(value, database) for field, value in zip(fields, values, strict=True)
    ]


def _columns(model: type[models.Model], names: tuple[str, ...]) -> tuple[models.Field, ...]:
    by_name = {field.name: field for field in model._meta.concrete_fields}
    return tuple(by_name[name] for name in names)


# All names in these statements come from our own models; values are always parameters.


@functools.lru_cache(maxsize=1024)
def _insert_statement(
    model: type[models.Model],
    names: tuple[str, ...],
    computed: tuple[tuple[str, str], ...] = (),
    source: str = "",
) -> tuple[str, tuple[models.Field, ...]]:
    fields = _columns(model, names)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    texts = dict(computed)
    places = ", ".join(texts.get(name, "%s") for name in names)
    rows = f"SELECT {places} FROM {source}" if source else f"VALUES ({places})"  # noqa: S608
    return f'INSERT INTO "{model._meta.db_table}" ({columns}) {rows}', fields


@functools.lru_cache(maxsize=1024)
def _insert_arrays_statement(model: type[models.Model], names: tuple[str, ...]) -> str:
    """Return the INSERT of any number of rows, whose parameters are the columns' values."""
    fields = _columns(model, names)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    arrays = ", ".join(f"%s::{field.db_type(connection)}[]" for field in fields)
    return f'INSERT INTO "{model._meta.db_table}" ({columns}) SELECT * FROM UNNEST({arrays})'  # noqa: S608


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
    return f'UPDATE "{model._meta.db_table}" SET {places} WHERE {condition}', fields  # noqa: S608


@functools.lru_cache(maxsize=1024)
def _update_and_read_statement(
    model: type[models.Model],
    values: tuple[str, ...],
    condition: str,
    names: tuple[str, ...],
    computed: tuple[tuple[str, str], ...],
) -> tuple[str, tuple[models.Field, ...], tuple[models.Field, ...]]:
    update, fields = _update_statement(model, values, condition, computed)
    # In the order of the model's own fields, as from_db() expects them.
    wanted = tuple(
        field for field in model._meta.concrete_fields if field.name in names or field.primary_key
    )
    columns = ", ".join(f'"{field.column}"' for field in wanted)
    return f"{update} RETURNING {columns}", fields, wanted
