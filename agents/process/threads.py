"""Agent code in threads, and what the host does around it.

A host such as Django keeps things for each thread, database connections among them, and expects to
hear when a piece of work in a thread is over. ``set_host`` tells this module whom to call. Without
a host (in ``agents.testing``) nothing is done.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ParamSpec, Protocol, TypeVar

from agents.guard import current_guard, wait_out

from .state import own_work, shared

__all__ = ["Host", "RunThread", "agent_code", "set_host", "waiting"]

P = ParamSpec("P")
T = TypeVar("T")

CLOSE_SECONDS = 1.0

_starting = threading.Lock()


class Host(Protocol):
    """What a host does for agent code in threads. Its methods must not raise."""

    def around(self) -> AbstractContextManager[object]:
        """Surround agent code in this thread; entered and left in this thread."""

    def waiting(self) -> None:
        """Agent code in this thread waits now, for a tool or for its next job."""


_host: Host | None = None


class _Here(threading.local):
    is_agent_code = False


_here = _Here()


def set_host(host: Host | None) -> None:
    """Set whom to call from now on. For the process, once."""
    global _host
    _host = host


@contextmanager
def agent_code() -> Iterator[None]:
    """Surround agent code in this thread, in the run's context. A nested one does nothing."""
    guard = current_guard()
    if _here.is_agent_code or guard is None:
        yield
        return
    _here.is_agent_code = True
    shared.enter_thread(guard)
    try:
        with nullcontext() if _host is None else _host.around():
            yield
    finally:
        shared.leave_thread(guard)
        _here.is_agent_code = False


@contextmanager
def waiting() -> Iterator[None]:
    """Surround the wait of agent code in this thread, for a tool or for its next job."""
    guard = current_guard()
    if not _here.is_agent_code or guard is None:
        yield
        return
    if _host is not None:
        _host.waiting()
    shared.leave_thread(guard)
    try:
        yield
    finally:
        shared.enter_thread(guard)


class RunThread(Executor):
    """Executes jobs of one run, one after the other, in a thread that starts with the first one.

    A daemon, for the reason that the thread of a ``def`` agent is one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: _Work | None = None  # most runs need no thread
        self._is_closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a job.

        Raises:
            RuntimeError: the run is over.
        """
        future: Future[T] = Future()
        with _starting:
            if self._is_closed:
                raise RuntimeError("this run is over; its thread takes no more work")
            if self._work is None:
                self._work = _Work()
                main = functools.partial(contextvars.copy_context().run, self._work.main)
                with own_work():
                    threading.Thread(target=main, name=self._name, daemon=True).start()
            job = functools.partial(fn, *args, **kwargs)
            self._work.jobs.put(functools.partial(_do, future, job))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; the thread ends after those that it has. Never waits."""
        with _starting:
            self._is_closed = True
            if self._work is not None:
                self._work.jobs.put(None)

    async def aclose(self, seconds: float = CLOSE_SECONDS) -> None:
        """Take no more jobs, and wait a moment for the thread's end, through cancellations.

        The host's code around the thread may still have something to say in the run's log. Jobs
        that the loop has submitted are known work of the run, which has waited for them; one that
        is still there, because the process goes away, is left behind.
        """
        self.shutdown()
        if self._work is not None:
            ended = asyncio.wait((asyncio.wrap_future(self._work.ended),), timeout=seconds)
            loop = asyncio.get_running_loop()
            await wait_out(loop.create_task(ended, context=contextvars.Context()))


class _Work:
    """The jobs of a thread."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.ended: Future[None] = Future()

    def main(self) -> None:
        try:
            with agent_code():
                while (job := self._next()) is not None:
                    job()
                    del job  # a job keeps its arguments, and its result
        finally:
            self.ended.set_result(None)

    def _next(self) -> Callable[[], None] | None:
        with waiting():
            return self.jobs.get()


def _do(future: Future[Any], job: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except BaseException as error:  # SystemExit too: it is the awaiting code's
        future.set_exception(error)
