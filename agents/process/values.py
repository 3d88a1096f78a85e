"""What all code of a process shares: how each thing is read, and how it is put back.

They come in two kinds. ``QUICK`` is read in a microsecond or two, after each step of a run.
``SLOW`` takes system calls, or has many parts.

Not here: seeds of random numbers, other attributes of modules, and what code outside of Python
keeps. Signal handlers need no watch: Python lets only the main thread set them, and no agent runs
there.
"""

from __future__ import annotations

import asyncio
import decimal
import gc
import locale
import logging
import os
import socket
import ssl
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from agents.output import streams

__all__ = ["DIRECTORY", "ENVIRONMENT", "QUICK", "SLOW", "Slow", "read_quick", "watch_loggers"]

DIRECTORY = "the working directory"
ENVIRONMENT = "the environment"

_root = logging.getLogger()
_streams = vars(sys)


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]  # typeshed has a sequence
    with warnings.catch_warnings():
        pass  # entering and leaving make warnings forget what they have decided


def _set_attribute(owner: Any, name: str) -> Callable[[Any], None]:
    return lambda value: setattr(owner, name, value)


def _set_list(which: Callable[[], list[Any]]) -> Callable[[list[Any]], None]:
    def put(value: list[Any]) -> None:
        which()[:] = value

    return put


#: ``dictConfig`` disables all loggers that it doesn't name, and so this one.
_sample = logging.getLogger(__name__)
_disabled: set[logging.Logger] = set()  # by the host


def _all_loggers() -> list[logging.Logger]:
    every = list(_root.manager.loggerDict.values())
    return [each for each in every if isinstance(each, logging.Logger)]


def _enable_loggers(_: object) -> None:
    for each in _all_loggers():
        if each not in _disabled:
            each.disabled = False


def _put_streams(_: object) -> None:
    streams.put_in_place()


#: What is compared after each step, in the order of ``read_quick``: name -> how it is put back.
QUICK: dict[str, Callable[[Any], None]] = {
    "sys.stdout": _put_streams,
    "sys.stderr": _put_streams,
    "sys.stdin": _set_attribute(sys, "stdin"),
    "the handlers of the root logger": _set_list(lambda: _root.handlers),
    "which loggers are disabled": _enable_loggers,
    "the level of the root logger": _root.setLevel,
    "the filters of the root logger": _set_list(lambda: _root.filters),
    "whether the root logger is disabled": _set_attribute(_root, "disabled"),
    "logging.disable()": logging.disable,
    "logging.raiseExceptions": _set_attribute(logging, "raiseExceptions"),
    "the factory of log records": logging.setLogRecordFactory,
    "the class of loggers": logging.setLoggerClass,
    "the filters of warnings": _set_filters,
    "warnings.showwarning": _set_attribute(warnings, "showwarning"),
    "sys.excepthook": _set_attribute(sys, "excepthook"),
    "sys.unraisablehook": _set_attribute(sys, "unraisablehook"),
    "threading.excepthook": _set_attribute(threading, "excepthook"),
    "sys.path": _set_list(lambda: sys.path),
    "the recursion limit": sys.setrecursionlimit,
    "the switch interval": sys.setswitchinterval,
    "the longest text of an integer": sys.set_int_max_str_digits,
    "whether the garbage collector is on": lambda on: gc.enable() if on else gc.disable(),
    "the default timeout of sockets": socket.setdefaulttimeout,
    "socket.socket": _set_attribute(socket, "socket"),
    "socket.create_connection": _set_attribute(socket, "create_connection"),
    "socket.getaddrinfo": _set_attribute(socket, "getaddrinfo"),
    "the TLS context of urllib": _set_attribute(ssl, "_create_default_https_context"),
    "the opener of urllib": _set_attribute(urllib.request, "_opener"),
    "the policy of asyncio": _set_attribute(asyncio.events, "_event_loop_policy"),
    "asyncio.run": _set_attribute(asyncio, "run"),
    "the default precision of decimal": _set_attribute(decimal.DefaultContext, "prec"),
    "the default rounding of decimal": _set_attribute(decimal.DefaultContext, "rounding"),
}


def read_quick() -> tuple[Any, ...]:
    """Return the values of ``QUICK``, lists as they are. It takes a microsecond or two."""
    return (
        _streams.get("stdout"),
        _streams.get("stderr"),
        sys.stdin,
        _root.handlers,
        _sample.disabled,
        _root.level,
        _root.filters,
        _root.disabled,
        _root.manager.disable,
        logging.raiseExceptions,
        logging._logRecordFactory,  # type: ignore[attr-defined]  # its getter is slower
        logging._loggerClass,  # type: ignore[attr-defined]
        warnings.filters,
        warnings.showwarning,
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        sys.path,
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        sys.get_int_max_str_digits(),
        gc.isenabled(),
        socket.getdefaulttimeout(),
        socket.socket,
        socket.create_connection,
        socket.getaddrinfo,
        ssl._create_default_https_context,
        urllib.request._opener,  # type: ignore[attr-defined]
        asyncio.events._event_loop_policy,  # type: ignore[attr-defined]
        asyncio.run,
        decimal.DefaultContext.prec,
        decimal.DefaultContext.rounding,
    )


class Slow:
    """One thing that is compared seldom."""

    def __init__(self, name: str, read: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        self.name = name
        self.read = read
        self.put = put
        self.right: Any = None

    def remember(self) -> None:
        """Take what is there now as right."""
        self.right = self.read()

    def differs(self) -> bool:
        return bool(self.read() != self.right)

    def describe(self) -> str:
        """Name it; while it differs."""
        return self.name


class _FileMask(Slow):
    """The umask can't be read without being set; so a look at it puts it right."""

    def __init__(self) -> None:
        super().__init__("the umask", self._read, os.umask)

    def remember(self) -> None:
        if self.right is None:  # once: files that other threads make meanwhile get this mask
            super().remember()

    def _read(self) -> int:
        mask = os.umask(0o077)
        os.umask(mask)
        return mask

    def differs(self) -> bool:
        return os.umask(self.right) != self.right  # type: ignore[no-any-return]


class _Environment(Slow):
    """The variables. The names of those that differ are told, their values may be secrets."""

    def __init__(self) -> None:
        super().__init__(ENVIRONMENT, lambda: dict(_variables()), self._put)

    def differs(self) -> bool:
        return bool(_variables() != self.right)

    def describe(self) -> str:
        return f"the environment ({', '.join(self._changed()[:10])})"

    def _changed(self) -> list[str]:
        now, right = _variables(), self.right
        return sorted(
            os.fsdecode(name)
            for name in now.keys() | right.keys()
            if now.get(name) != right.get(name)
        )

    def _put(self, right: dict[bytes, bytes]) -> None:
        for name in self._changed():
            value = right.get(os.fsencode(name))
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = os.fsdecode(value)
        time.tzset()


def _variables() -> dict[bytes, bytes]:
    # os.environ itself decodes each variable at each look, which takes 40 times as long.
    variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return variables


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


class _Descriptor(Slow):
    """Standard error, below Python: agents' libraries use ``os.dup2`` to silence others."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(name, self._read, self._put)
        self._number = number
        self._copy: int | None = None

    def remember(self) -> None:
        if self.right is None or self.differs():
            super().remember()
            if self._copy is not None:
                os.close(self._copy)
            self._copy = None if self.right is None else os.dup(self._number)

    def _read(self) -> tuple[int, int] | None:
        try:
            status = os.fstat(self._number)
        except OSError:  # closed
            return None
        return status.st_dev, status.st_ino

    def _put(self, _: object) -> None:
        if self._copy is not None:
            os.dup2(self._copy, self._number)


class _Loggers(Slow):
    """Levels of the loggers that the host has configured, and what root's handlers are like."""

    def __init__(self) -> None:
        super().__init__("the configuration of loggers", self._read, self._put)
        self.loggers: list[logging.Logger] = []

    def _read(self) -> list[Any]:
        handlers = [(each, each.level, each.formatter, *each.filters) for each in _root.handlers]
        return [[each.level for each in self.loggers], handlers]

    def _put(self, right: list[Any]) -> None:
        levels, handlers = right
        for each, level in zip(self.loggers, levels, strict=True):
            each.setLevel(level)
        for handler, level, formatter, *filters in handlers:
            handler.setLevel(level)
            handler.setFormatter(formatter)
            handler.filters[:] = filters


_loggers = _Loggers()

SLOW: list[Slow] = [
    Slow(DIRECTORY, _directory, lambda path: None if path is None else os.chdir(path)),
    _Environment(),
    _FileMask(),
    Slow(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    _Descriptor(2, "standard error"),  # the process's log
    _loggers,
]


def watch_loggers(names: Iterable[str]) -> None:
    """Take the loggers as they are; ``names`` are those that the host has configured."""
    _disabled.clear()
    _disabled.update(each for each in _all_loggers() if each.disabled)
    _loggers.loggers = [logging.getLogger(name) for name in names]
