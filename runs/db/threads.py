"""Database threads that belong to a worker.

Django runs all sync code of async views in one thread per process. A busy site would delay each
data store call there. These threads serve one worker only, and keep their connections open.

With DEBUG Django keeps each connection's last 9,000 queries with their parameters, documents among
them, until a request starts. A worker's threads serve no request, so each of them calls
``reset_queries()`` itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import reset_queries

from agents.process.state import own_work
from runs.db.alias import connection

from .transactions import CONNECTION_ERRORS

__all__ = ["DatabaseThreads"]

P = ParamSpec("P")
T = TypeVar("T")
THREAD_COUNT = 4


class DatabaseThreads:
    """A few threads with a database connection each."""

    def __init__(self, count: int = THREAD_COUNT) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="runs-database")

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``function`` in one of the threads; from any thread."""
        with own_work():  # a run may be the first to need one of the threads
            return self._pool.submit(_call, functools.partial(function, *args, **kwargs))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in one of the threads and await its result.

        Cancelling the await does not interrupt a call that has started.
        """
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Finish the submitted calls, close the connections and end the threads."""
        all_threads = threading.Barrier(self._count)

        def close_mine() -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                all_threads.wait(timeout=5)  # so that each thread takes one of these
            connection.close()

        for _ in range(self._count):
            self._pool.submit(close_mine)
        self._pool.shutdown(wait=True)


def _call(function: Callable[[], T]) -> T:
    try:
        return function()
    except CONNECTION_ERRORS:  # without is_away(): closing costs little
        connection.close()  # it may be broken; the next call opens another
        raise
    finally:
        reset_queries()
