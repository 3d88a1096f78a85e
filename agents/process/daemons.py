"""Threads that are reused, and that keep no process from ending."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable

from .state import own_work

__all__ = ["DaemonThreads"]

IDLE_SECONDS = 10.0

_Inbox = queue.SimpleQueue[Callable[[], None]]


class DaemonThreads:
    """As many threads as there are jobs at a time. A thread without a job ends after a while.

    A ``ThreadPoolExecutor`` joins its threads at exit: a job that never returns would keep the
    process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count(1)
        self._idle: list[_Inbox] = []
        # Reentrant: a finaliser may start a job while this very thread holds it.
        self._lock = threading.RLock()

    def do(self, job: Callable[[], None]) -> None:
        """Start a job, which must not raise.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(job)
            return
        name = f"{self._name}-{next(self._numbers)}"
        thread = threading.Thread(target=self._main, args=([job],), name=name, daemon=True)
        with own_work():
            thread.start()

    def _main(self, first: list[Callable[[], None]]) -> None:
        inbox: _Inbox = queue.SimpleQueue()
        job: Callable[[], None] | None = first.pop()  # no frame keeps it while the thread is idle
        while job is not None:
            job()
            job = None
            with self._lock:
                self._idle.append(inbox)
            job = self._next(inbox)

    def _next(self, inbox: _Inbox) -> Callable[[], None] | None:
        try:
            return inbox.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    return None
        return inbox.get()  # it came at the last moment
