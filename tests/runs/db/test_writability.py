"""What fails a write is told from what fails for other reasons."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from runs.db import writability
from runs.db.transactions import NothingWritten


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writability, "_noted", (float("-inf"), ""))


def from_driver(**code: object) -> OperationalError:
    error = OperationalError("as Django raises it")
    error.__cause__ = type("DriverError", (Exception,), code)()
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ({"sqlstate": "53100"}, "full"),
        ({"sqlstate": "25006"}, "read-only"),
        ({"sqlstate": "58030"}, "failing"),
        ({"sqlstate": "57P01"}, ""),  # an administrator ended the session
        ({"sqlstate": "53300"}, ""),  # too many connections
        ({"sqlstate": "40P01"}, ""),
        ({"sqlstate": None}, ""),
        ({"sqlite_errorcode": sqlite3.SQLITE_FULL}, "full"),
        ({"sqlite_errorcode": sqlite3.SQLITE_READONLY}, "read-only"),
        ({"sqlite_errorcode": sqlite3.SQLITE_READONLY_DBMOVED}, "read-only"),
        ({"sqlite_errorcode": sqlite3.SQLITE_CANTOPEN}, "read-only"),
        ({"sqlite_errorcode": sqlite3.SQLITE_IOERR_WRITE}, "failing"),
        ({"sqlite_errorcode": sqlite3.SQLITE_IOERR_FSYNC}, "failing"),
        ({"sqlite_errorcode": sqlite3.SQLITE_IOERR_READ}, ""),
        ({"sqlite_errorcode": sqlite3.SQLITE_BUSY}, ""),
        ({"sqlite_errorcode": sqlite3.SQLITE_CONSTRAINT}, ""),
    ],
    ids=str,
)
def test_an_error_says_why_nothing_is_written(code: dict[str, object], kind: str) -> None:
    writability.note_failure(from_driver(**code))
    assert writability.refusal() == kind
    writability.note_failure(ValueError("not the database's"))
    assert writability.refusal() == kind


def test_an_error_of_our_own_has_the_reason_in_its_cause() -> None:
    error = NothingWritten("not committed")
    error.__cause__ = from_driver(sqlstate="53100")
    writability.note_failure(error)
    assert writability.refusal() == "full"


def test_a_failure_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(writability, "time", SimpleNamespace(monotonic=lambda: clock.now))
    writability.note("full")
    clock.now += writability.REMEMBERED_SECONDS - 0.1
    assert writability.refusal() == "full"
    writability.note("read-only")
    clock.now += writability.REMEMBERED_SECONDS - 0.1
    assert writability.refusal() == "read-only"
    clock.now += 0.2
    assert writability.refusal() == ""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database in a file, as SQLite itself has it."""
    file = sqlite3.connect(tmp_path / "file.sqlite3", isolation_level=None)
    file.execute("CREATE TABLE lines (text)")
    yield file
    file.close()


def test_a_full_sqlite_is_what_sqlite_says_it_is(file: sqlite3.Connection) -> None:
    file.execute("PRAGMA max_page_count = 3")
    with pytest.raises(sqlite3.OperationalError, match="full") as full:
        file.execute("INSERT INTO lines VALUES (?)", ["x" * 100_000])
    error = OperationalError()
    error.__cause__ = full.value
    writability.note_failure(error)
    assert writability.refusal() == "full"


def test_a_file_that_may_only_be_read_is_read_only(file: sqlite3.Connection) -> None:
    file.execute("PRAGMA query_only = on")
    with pytest.raises(sqlite3.OperationalError) as refused:
        file.execute("INSERT INTO lines VALUES (1)")
    error = OperationalError()
    error.__cause__ = refused.value
    writability.note_failure(error)
    assert writability.refusal() == "read-only"
