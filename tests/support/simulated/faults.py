"""Faults between any two statements of a process, and the code that is exempt from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

__all__ = ["Crash", "breaking", "observing"]


class Crash(BaseException):
    """The process is gone in an instant."""


@contextmanager
def breaking(what: type[BaseException], *, before_statement: int | None) -> Iterator[None]:
    """Raise ``what`` before the nth statement of the block, or right after a commit.

    After such a commit no process knows of it yet, not even the process that made it.
    """
    left = before_statement

    def execute(run: Any, sql: Any, parameters: Any, many: Any, context: Any) -> Any:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                left = None
                raise what("interrupted")
        return run(sql, parameters, many, context)

    def commit() -> None:
        real_commit()
        connection._commit = real_commit  # type: ignore[method-assign]
        raise what("interrupted after the commit")

    real_commit = connection._commit
    if before_statement is None:
        connection._commit = commit  # type: ignore[method-assign]
    try:
        with connection.execute_wrapper(execute):
            yield
    except what:
        connection.close()  # and with it the callbacks that run after a commit
        raise
    finally:
        connection._commit = real_commit  # type: ignore[method-assign]


@contextmanager
def observing() -> Iterator[None]:
    """Read the database as an observer: no fault happens here."""
    wrappers, connection.execute_wrappers = connection.execute_wrappers, []
    try:
        yield
    finally:
        connection.execute_wrappers = wrappers
