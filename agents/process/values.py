"""What all code of a process shares: how each thing is read, and how it is put back.

They come in two kinds. ``QUICK`` is read in a microsecond or two, after each step of a run.
``SLOW`` takes system calls, or has many parts.

Not here: seeds of random numbers, other attributes of modules, and what code outside of Python
keeps. Signal handlers need no watch: Python lets only the main thread set them, and no agent runs
there.
"""

from __future__ import annotations

import asyncio
import builtins
import decimal
import gc
import locale
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any

from agents.output import streams

__all__ = ["DIRECTORY", "ENVIRONMENT", "QUICK", "SLOW", "Slow", "read_quick", "watch_loggers"]

DIRECTORY = "the working directory"
ENVIRONMENT = "the environment"

_root = logging.getLogger()
_streams = vars(sys)
_environ = os.environ  # an agent may put another object in its place


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
    "the class of sys": _set_attribute(sys, "__class__"),
    "print": _set_attribute(builtins, "print"),
    "os.environ": _set_attribute(os, "environ"),
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
    "when the garbage collector runs": lambda limits: gc.set_threshold(*limits),
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
        sys.__class__,
        builtins.print,
        os.environ,
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
        gc.get_threshold(),
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
                del _environ[name]
            else:
                _environ[name] = os.fsdecode(value)
        time.tzset()


def _variables() -> dict[bytes, bytes]:
    # os.environ itself decodes each variable at each look, which takes 40 times as long.
    variables: dict[bytes, bytes] = _environ._data  # type: ignore[attr-defined]
    return variables


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


class _Descriptor(Slow):
    """A standard stream, below Python: agents' libraries use ``os.dup2`` to silence others."""

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
    """How the loggers are configured that were there before, and the handlers of root."""

    def __init__(self) -> None:
        super().__init__("the configuration of loggers", self._read, self._put)
        self._known: list[logging.Logger] = []

    def remember(self) -> None:
        self._known = _all_loggers()
        super().remember()

    def _read(self) -> list[Any]:
        loggers = [
            (each.level, each.propagate, each.disabled, *each.handlers, None, *each.filters)
            for each in self._known
        ]
        return [loggers, [_form_of(each) for each in _root.handlers]]

    def _put(self, right: list[Any]) -> None:
        for each, (level, propagate, disabled, *lists) in zip(self._known, right[0], strict=True):
            each.propagate, each.disabled = propagate, disabled
            if each.level != level:
                each.setLevel(level)  # makes all loggers forget what is enabled
            middle = lists.index(None)
            each.handlers[:], each.filters[:] = lists[:middle], lists[middle + 1 :]
        for handler, level, formatter, filters, own, stream in right[1]:
            handler.setLevel(level)
            handler.setFormatter(formatter)
            handler.filters[:] = filters
            for name, method in zip(_METHODS, own, strict=True):
                if method is None:
                    vars(handler).pop(name, None)
                else:
                    setattr(handler, name, method)
            if stream is not None:
                handler.stream = stream


#: Methods of a handler that an agent may replace on the object.
_METHODS = ("emit", "handle", "format", "filter")


def _form_of(handler: logging.Handler) -> tuple[Any, ...]:
    own = vars(handler)
    # Other handlers, such as those that start a new file each day, change their stream themselves.
    stream = own.get("stream") if type(handler) is logging.StreamHandler else None
    methods = tuple(own.get(name) for name in _METHODS)
    return handler, handler.level, handler.formatter, tuple(handler.filters), methods, stream


_RESOURCES = (
    *(resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE),
    *(resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_STACK),
)


def _limits() -> list[int]:
    """Return the soft limits; hard ones can't be raised again."""
    return [resource.getrlimit(each)[0] for each in _RESOURCES]


def _set_limits(right: list[int]) -> None:
    for each, soft in zip(_RESOURCES, right, strict=True):
        now, hard = resource.getrlimit(each)
        if now != soft:
            is_above = hard != resource.RLIM_INFINITY and (
                soft == resource.RLIM_INFINITY or soft > hard
            )
            resource.setrlimit(each, (hard if is_above else soft, hard))


def _has_alarm() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _set_alarm(had_one: bool) -> None:
    """Cancel an alarm that a run has left: it would end the process."""
    if not had_one:
        signal.setitimer(signal.ITIMER_REAL, 0)


SLOW: list[Slow] = [
    Slow(DIRECTORY, _directory, lambda path: None if path is None else os.chdir(path)),
    _Environment(),
    _FileMask(),
    Slow(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    _Descriptor(1, "standard output"),
    _Descriptor(2, "standard error"),  # the process's log
    Slow("the limits of resources", _limits, _set_limits),
    Slow("the alarm", _has_alarm, _set_alarm),
    _Loggers(),
]


def watch_loggers() -> None:
    """Take it as right which loggers are disabled now."""
    _disabled.clear()
    _disabled.update(each for each in _all_loggers() if each.disabled)
