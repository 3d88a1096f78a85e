"""The database connections of agent code.

Django returns a thread's connections when a request ends, and tests there whether they are alive.
Agent code has no requests. So a thread returns its connections when agent code leaves it, and, if
no transaction and no cursor is open, each time the code waits: an agent may wait for a model for
minutes, and a process has few connections. In between, a connection that was idle for a moment is
tested before it is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from agents.guard import current_guard
from agents.trace import current_trace

__all__ = ["AgentConnections", "follow_connections"]

logger = logging.getLogger(__name__)

#: A connection that has been idle for this long is tested, which takes 0.1 ms.
FRESH_SECONDS = 0.05
LEFT_OPEN = (
    "the code left a database transaction open; it was rolled back. "
    "Use transaction.atomic() within one function"
)


class AgentConnections:
    """Returns the connections of threads with agent code: an ``agents.process.threads.Host``."""

    @contextmanager
    def around(self) -> Iterator[None]:
        """Return the connections of this thread when the code leaves it, however it does."""
        _return_all()  # of code that went past us: it must not hand its transaction on
        try:
            yield
        finally:
            _return_all()

    def waiting(self) -> None:
        """Return those that hold no transaction and no cursor."""
        for wrapper in connections.all(initialized_only=True):
            if not _is_in_transaction(wrapper) and not _has_cursors(wrapper):
                _return(wrapper)


def follow_connections() -> None:
    """Follow each connection of this process, from the moment that it is opened."""
    connection_created.connect(_follow, dispatch_uid="runs.db.agent_connections")


def _return_all() -> None:
    for wrapper in connections.all(initialized_only=True):
        if wrapper.connection is not None and _is_in_transaction(wrapper):
            _end_transaction(wrapper)
        _return(wrapper)


def _return(wrapper: BaseDatabaseWrapper) -> None:
    """Return a connection to the pool, and forget Django's object with all of its state."""
    try:
        wrapper.close()
    except Exception as error:  # of any kind: the others must be returned, too
        logger.warning("could not return a connection: %s", type(error).__name__)
    del connections[wrapper.alias]


def _end_transaction(wrapper: BaseDatabaseWrapper) -> None:
    trace = current_trace()
    if trace is not None and _has_begun(wrapper.connection):
        trace.emit("log", {"level": "warning", "message": LEFT_OPEN})
    try:
        wrapper.connection.rollback()  # not the wrapper's method: atomic() forbids that
    except Exception as error:  # it is broken: then the server has rolled back
        logger.debug("could not roll back: %s", type(error).__name__)


def _has_begun(raw: Any) -> bool:
    """Tell whether a connection of a driver has a transaction that something was done in."""
    info = getattr(raw, "info", None)  # psycopg's
    if info is not None:
        return bool(info.transaction_status)  # 0 is idle
    return bool(getattr(raw, "in_transaction", True))  # sqlite3's


def _is_in_transaction(wrapper: BaseDatabaseWrapper) -> bool:
    return wrapper.in_atomic_block or (wrapper.connection is not None and not wrapper.autocommit)


# --- Each connection ----------------------------------------------------------------------------


def _follow(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Follow a connection that was opened just now, in its thread."""
    if _is_on_a_loop():  # DJANGO_ALLOW_ASYNC_UNSAFE
        return
    _left_behind.add(connection)
    if current_guard() is not None and "close_if_health_check_failed" not in vars(connection):
        _Followed(connection)


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Followed:
    """Knows a connection's cursors, and tests the connection when it has been idle.

    It replaces two methods of Django's object, since Django has no signal for either.
    """

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        self._wrapper = wrapper
        self._create = wrapper.create_cursor
        self._check = wrapper.close_if_health_check_failed
        self._used_at = time.monotonic()
        self.cursors: weakref.WeakSet[Any] = weakref.WeakSet()
        wrapper.create_cursor = self._create_cursor  # type: ignore[method-assign]
        wrapper.close_if_health_check_failed = self._check_if_idle  # type: ignore[method-assign]

    def _create_cursor(self, *args: Any, **kwargs: Any) -> Any:
        cursor = self._create(*args, **kwargs)
        self.cursors.add(cursor)
        return cursor

    def _check_if_idle(self) -> None:
        """Test it, if it may have died. Django does not: with a pool, only a new connection is."""
        now, wrapper = time.monotonic(), self._wrapper
        is_stale = wrapper.errors_occurred or now - self._used_at > FRESH_SECONDS
        self._used_at = now
        if (
            is_stale
            and wrapper.connection is not None
            and wrapper.settings_dict["CONN_HEALTH_CHECKS"]
            and not _is_in_transaction(wrapper)
        ):
            if wrapper.is_usable():
                wrapper.errors_occurred = False
            else:
                wrapper.close()
        self._check()


def _has_cursors(wrapper: BaseDatabaseWrapper) -> bool:
    """Tell whether code still has a cursor that it has not closed, such as an ``iterator()``."""
    if wrapper.connection is None:
        return False
    followed = getattr(vars(wrapper).get("create_cursor"), "__self__", None)
    if not isinstance(followed, _Followed):
        return False  # opened before
    return any(not getattr(cursor, "closed", False) for cursor in list(followed.cursors))


# --- Threads that an agent starts itself --------------------------------------------------------


class _LeftBehind(threading.local):
    """The connections of this thread. When the thread ends, Python deletes this."""

    def __init__(self) -> None:
        self._returning = _Returning()

    def add(self, wrapper: BaseDatabaseWrapper) -> None:
        self._returning.wrappers[wrapper.alias] = wrapper


class _Returning:
    """Returns what is left of a thread: no code surrounds threads that agents start themselves."""

    def __init__(self) -> None:
        self.wrappers: dict[str, BaseDatabaseWrapper] = {}
        self._process = os.getpid()

    def __del__(self) -> None:
        # A forked child has no thread but one, and forgets the others. Their connections are the
        # parent's, and a thread of the parent may have had their locks, which nobody opens here.
        if os.getpid() != self._process:
            return
        for wrapper in self.wrappers.values():
            # It may be broken, and the process may be ending.
            with suppress(Exception):
                if wrapper.connection is not None:
                    wrapper.connection.rollback()
                wrapper.close()


_left_behind = _LeftBehind()
