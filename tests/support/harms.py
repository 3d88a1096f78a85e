"""What an agent may do to the state of its process, and how that state reads."""

from __future__ import annotations

import asyncio
import builtins
import decimal
import gc
import io
import locale
import logging
import logging.config
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import urllib.request
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["HARMS", "OTHERS", "ROOT", "SEEN_AT_THE_END", "nothing", "umask"]

ROOT = logging.getLogger()
OTHERS = logging.getLogger("an.agent")  # it exists before the runs, as a module's logger does


def nothing(*_: Any) -> None: ...


def _harm_logging() -> None:
    for handler in list(ROOT.handlers):
        ROOT.removeHandler(handler)


def _close_output(descriptor: int = 2) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _harm_handlers() -> None:
    for handler in ROOT.handlers:
        handler.setLevel(logging.CRITICAL)


def _harm_logger() -> None:
    """Silence a logger that others use, too."""
    OTHERS.setLevel(logging.CRITICAL)
    OTHERS.addFilter(lambda _: False)
    OTHERS.addHandler(logging.NullHandler())
    OTHERS.propagate = False
    OTHERS.disabled = True


def _logger() -> list[Any]:
    lists = [list(OTHERS.filters), list(OTHERS.handlers)]
    return [OTHERS.level, *lists, OTHERS.propagate, OTHERS.disabled]


def _console() -> logging.StreamHandler[Any]:
    found = [each for each in ROOT.handlers if type(each) is logging.StreamHandler]
    return found[0]


def _harm_console() -> None:
    _console().setStream(io.StringIO())
    setattr(_console(), "emit", nothing)  # noqa: B010 - mypy knows it as a method


def _limit_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))


def _stat(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


#: name -> what an agent does, and how the state reads.
HARMS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "handlers removed": (_harm_logging, lambda: list(ROOT.handlers)),
    "basicConfig(force)": (
        lambda: logging.basicConfig(force=True, level=logging.DEBUG),
        lambda: (list(ROOT.handlers), ROOT.level),
    ),
    "dictConfig": (
        lambda: logging.config.dictConfig({"version": 1}),
        lambda: (list(ROOT.handlers), logging.getLogger("django").disabled),
    ),
    "a level": (lambda: ROOT.setLevel(logging.CRITICAL), lambda: ROOT.level),
    "the level of httpx": (
        lambda: logging.getLogger("httpx").setLevel(logging.DEBUG),
        lambda: logging.getLogger("httpx").level,
    ),
    "a logger of others": (_harm_logger, _logger),
    "the stream of a handler": (
        _harm_console,
        lambda: [_console().stream, "emit" in vars(_console())],
    ),
    "the level of a handler": (_harm_handlers, lambda: [h.level for h in ROOT.handlers]),
    "logging.disable": (lambda: logging.disable(), lambda: ROOT.manager.disable),
    "raiseExceptions": (
        lambda: setattr(logging, "raiseExceptions", False),
        lambda: logging.raiseExceptions,
    ),
    "a factory of records": (
        lambda: logging.setLogRecordFactory(nothing),
        logging.getLogRecordFactory,
    ),
    "warnings": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "showwarning": (
        lambda: setattr(warnings, "showwarning", nothing),
        lambda: warnings.showwarning,
    ),
    "the directory of sys": (
        lambda: vars(sys).update(stdout=io.StringIO()),
        lambda: vars(sys)["stdout"],
    ),
    "the class of sys": (
        lambda: setattr(sys, "__class__", type(os)),
        lambda: sys.__class__,
    ),
    "print": (lambda: setattr(builtins, "print", nothing), lambda: builtins.print),
    "standard output below Python": (lambda: _close_output(1), lambda: _stat(1)),
    "standard error below Python": (_close_output, lambda: _stat(2)),
    "excepthook": (lambda: setattr(sys, "excepthook", nothing), lambda: sys.excepthook),
    "excepthook of threads": (
        lambda: setattr(threading, "excepthook", nothing),
        lambda: threading.excepthook,
    ),
    "sys.path": (lambda: sys.path.insert(0, "/tmp"), lambda: list(sys.path)),
    "the recursion limit": (lambda: sys.setrecursionlimit(50_000), sys.getrecursionlimit),
    "the collector": (gc.disable, gc.isenabled),
    "the limits of the collector": (lambda: gc.set_threshold(1), gc.get_threshold),
    "the most files": (
        _limit_files,
        lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
    ),
    "an alarm": (lambda: signal.alarm(60), lambda: signal.getitimer(signal.ITIMER_REAL)),
    "the timeout of sockets": (lambda: socket.setdefaulttimeout(0.01), socket.getdefaulttimeout),
    "socket.socket": (lambda: setattr(socket, "socket", nothing), lambda: socket.socket),
    "TLS without checks": (
        lambda: setattr(ssl, "_create_default_https_context", ssl._create_unverified_context),
        lambda: ssl._create_default_https_context,
    ),
    "an opener": (
        lambda: urllib.request.install_opener(urllib.request.build_opener()),
        lambda: urllib.request._opener,  # type: ignore[attr-defined]
    ),
    "a policy": (
        lambda: asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy()),
        asyncio.get_event_loop_policy,
    ),
    "the default context of decimal": (
        lambda: setattr(decimal.DefaultContext, "prec", 3),
        lambda: decimal.Context().prec,
    ),
    "the locale": (
        lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
        lambda: locale.setlocale(locale.LC_ALL),
    ),
    "the working directory": (lambda: os.chdir("/"), os.getcwd),
    "a variable set": (
        lambda: os.environ.update(OWNERS_KEY="secret-of-the-owner"),
        lambda: os.environ.get("OWNERS_KEY"),
    ),
    "a variable removed": (lambda: os.environ.pop("PATH"), lambda: os.environ.get("PATH")),
    "the environment cleared": (os.environ.clear, lambda: dict(os.environ)),
    "another environment": (
        lambda: setattr(os, "environ", {"PATH": "/nowhere"}),
        lambda: os.environ.get("PATH"),
    ),
    "the umask": (lambda: os.umask(0), lambda: umask()),
}


#: Of these it can't be told which run it was, when several were there.
SEEN_AT_THE_END = {
    *("the umask", "the locale", "standard output below Python", "standard error below Python"),
    *("the level of httpx", "the level of a handler", "the stream of a handler"),
    *("a logger of others", "the most files", "an alarm"),
}


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
