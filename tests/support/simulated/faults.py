"""What may befall a process between any two statements, and what nothing befalls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

__all__ = ["Crash", "breaking", "looking_on"]


class Crash(BaseException):
    """The process is gone from one instant to the next."""


@contextmanager
def breaking(what: type[BaseException], *, before_statement: int | None) -> Iterator[None]:
    """Raise ``what`` before the nth statement of the block, or else right after a commit.

    After a commit no process knows of it yet, not even the one that asked for it.
    """
    left = before_statement

    def execute(run: Any, sql: Any, parameters: Any, many: Any, context: Any) -> Any:
        nonlocal left
        if left is not None:
            left -= 1
            if left < 0:
                left = None
                raise what("broken off")
        return run(sql, parameters, many, context)

    def commit() -> None:
        real_commit()
        connection._commit = real_commit  # type: ignore[method-assign]
        raise what("broken off, but committed")

    real_commit = connection._commit
    if before_statement is None:
        connection._commit = commit  # type: ignore[method-assign]
    try:
        with connection.execute_wrapper(execute):
            yield
    except what:
        connection.close()  # and with it what was to be done after a commit
        raise
    finally:
        connection._commit = real_commit  # type: ignore[method-assign]


@contextmanager
def looking_on() -> Iterator[None]:
    """Look at the database without being part of what happens: no fault is due here."""
    wrappers, connection.execute_wrappers = connection.execute_wrappers, []
    try:
        yield
    finally:
        connection.execute_wrappers = wrappers
