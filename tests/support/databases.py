"""A new database for each installation, on the engine of this session of tests.

DATABASE_URL decides, as it does for the tests' own process: an SQLite file, or another database on
that PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
import weakref
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg

__all__ = ["Database", "create_database", "drop_database", "new_database"]


class Database(Protocol):
    """A database, as seen from outside the processes that use it.

    Statements use SQL that both engines know, with ``%s`` for parameters.
    """

    url: str  # for DATABASE_URL

    def execute(self, sql: str, *parameters: Any) -> list[Any]:
        """Execute a statement, commit it, and return its rows."""

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement once for each row of parameters, in one transaction."""

    def copy(self, path: Path) -> Database:
        """Make another database with the same content, while this one is not in use."""


def new_database(path: Path) -> Database:
    """Make an empty database, at ``path`` if it is a file."""
    url = os.environ.get("DATABASE_URL", "")
    if url.startswith("postgres"):
        return _PostgresDatabase(create_database(url))
    return _SQLiteFile(path)


class _SQLiteFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"

    def execute(self, sql: str, *parameters: Any) -> list[Any]:
        with closing(self._connect()) as connection:
            rows = connection.execute(_with_question_marks(sql), _adapted(parameters)).fetchall()
            connection.commit()
            return rows

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with closing(self._connect()) as connection:
            connection.executemany(_with_question_marks(sql), map(_adapted, rows))
            connection.commit()

    def copy(self, path: Path) -> _SQLiteFile:
        shutil.copyfile(
            self._path, path
        )  # complete: the last process to close it has emptied the WAL
        return _SQLiteFile(path)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=20)


def _with_question_marks(sql: str) -> str:
    return sql.replace("%s", "?")


def _adapted(parameters: Sequence[Any]) -> list[Any]:
    """Convert to what Django stores in an engine without such a type."""
    return [each.hex if isinstance(each, uuid.UUID) else each for each in parameters]


class _PostgresDatabase:
    """Dropped with its last reference, which its installation holds."""

    def __init__(self, url: str) -> None:
        self.url = url
        weakref.finalize(self, drop_database, url)

    def execute(self, sql: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with psycopg.connect(self.url) as connection:
            connection.cursor().executemany(sql, rows)

    def copy(self, path: Path) -> _PostgresDatabase:
        return _PostgresDatabase(create_database(self.url, template=_name(self.url)))


def create_database(server: str, template: str = "template1") -> str:
    """Make a database as a copy of ``template``, to which no session is connected; return its URL.

    Copying a database with all tables takes a tenth of the time of migrating.

    Args:
        server: the URL of any database of that PostgreSQL.
    """
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(_sibling_url(server, "postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return _sibling_url(server, name)


def drop_database(url: str) -> None:
    """Remove a database, and end the sessions that are connected to it."""
    with psycopg.connect(_sibling_url(url, "postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{_name(url)}" WITH (FORCE)')


def _sibling_url(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def _name(url: str) -> str:
    return urlsplit(url).path[1:]
