"""Do the site's own work after a commit: the receivers of ``runs.signals``, and its log handlers.

It may be slow, or never return: a receiver calls other services, a log handler sends a mail. So it
has one thread of its own, and no stop, write or agent waits for it. At the end of the process
Python waits for what is left.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from django.db import connections, reset_queries
from django.dispatch import Signal

from agents.process.state import own_work
from runs.models import RunRecord

from . import run_started

__all__ = ["call_soon", "send", "send_started"]

logger = logging.getLogger(__name__)

MOST_WAITING = 10_000  # pieces of work: what a slow receiver may keep in memory

_thread = ThreadPoolExecutor(1, thread_name_prefix="runs-receivers")
_lock = threading.Lock()
_waiting_count = 0


def send(signal: Signal, notices: Iterable[Mapping[str, Any]]) -> None:
    """Send a signal soon, once for each of ``notices``: its arguments, ``run`` among them.

    Call it after the commit, from any thread; it never raises. Without receivers it looks at no
    notice.
    """
    try:
        if not signal.has_listeners(RunRecord):
            return
        # Copies: the caller goes on with its records, and a receiver may change what it gets.
        given = [{**notice, "run": copy.copy(notice["run"])} for notice in notices]
        if given:
            call_soon(partial(_send_all, signal, given))
    except Exception:  # the change is committed: its caller has more to do
        logger.exception("a signal can't be sent")


def send_started(records: Iterable[RunRecord]) -> None:
    """Send ``run_started`` for records as a committed claim has left them."""
    send(run_started, ({"run": one, "attempt": one.attempt} for one in records))


def call_soon(work: Callable[[], object]) -> None:
    """Call ``work`` in the thread, in order. From any thread; never waits, and never raises."""
    global _waiting_count
    with _lock:
        is_full = _waiting_count >= MOST_WAITING
        _waiting_count += not is_full
    if is_full:
        logger.error("receivers are too slow: what %d others wait for is left out", MOST_WAITING)
        return
    try:
        with own_work():  # a run may be the first to need the thread
            _thread.submit(_call, work)
    except RuntimeError as error:
        _has_left()
        logger.warning("a receiver can't be called any more: %s", error)  # Python ends


def _call(work: Callable[[], object]) -> None:
    _has_left()
    try:
        work()
    except BaseException:  # SystemExit, too: it would be lost in the thread
        logger.exception("work of the site has failed")
    finally:
        connections.close_all()  # of this thread
        reset_queries()


def _has_left() -> None:
    global _waiting_count
    with _lock:
        _waiting_count -= 1


def _send_all(signal: Signal, notices: Iterable[Mapping[str, Any]]) -> None:
    for notice in notices:
        for receiver, answer in signal.send_robust(RunRecord, **notice):
            if isinstance(answer, Exception):
                run = notice["run"].pk
                name = getattr(receiver, "__qualname__", repr(receiver))
                logger.error(
                    "the receiver %s failed for run %s", name, run,
                    exc_info=answer, extra={"run": run},
                )  # fmt: skip
