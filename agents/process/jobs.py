"""The jobs of runs in threads: ``asyncio.to_thread`` and ``run_in_executor(None, ...)``.

A run has few threads at a time, and so has the process. The other jobs wait in order, visibly. One
owner's jobs never hold up another owner's run.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agents.guard import Guard

from .daemons import DaemonThreads

__all__ = ["MAX_THREADS", "MAX_THREADS_PER_RUN", "Jobs"]

MAX_THREADS = 256
MAX_THREADS_PER_RUN = 8


@dataclass(eq=False, slots=True)
class _Job:
    guard: Guard
    label: str
    function: Callable[[], Any]
    future: Future[Any]
    work: str = ""  # its id among the known work of its run
    got_no_thread: bool = False


@dataclass(slots=True)
class _OfRun:
    """The jobs of one run."""

    running_count: int = 0
    waiting: OrderedDict[_Job, None] = field(default_factory=OrderedDict)


class Jobs:
    """Executes the jobs of runs; each is known work of its run until it has really returned.

    Args:
        most: jobs of all runs at a time. An owner without a job gets a thread beyond it.
        per_run: jobs of one run at a time.
    """

    def __init__(self, most: int = MAX_THREADS, per_run: int = MAX_THREADS_PER_RUN) -> None:
        self._most = most
        self._per_run = per_run
        self._threads = DaemonThreads("agent-job")
        self._lock = threading.RLock()  # reentrant, for the reason that DaemonThreads' is
        self._running_count = 0
        self._of_owners: Counter[Hashable] = Counter()
        self._runs: dict[Guard, _OfRun] = {}
        self._waiting: OrderedDict[Guard, _OfRun] = OrderedDict()  # runs with jobs that wait

    def submit(self, guard: Guard, label: str, function: Callable[[], Any]) -> Future[Any]:
        """Start a job, or queue it.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        job = _Job(guard, label, function, Future())
        if not self._may_begin(job):
            job.work = guard.in_flight.begin_work("thread", f"{label}, waits for a thread")
            if not self._may_begin(job, or_queue=True):
                job.future.add_done_callback(partial(self._leave_queue, job))
                return job.future
        self._begin([job])
        if job.got_no_thread:
            job.future.result()
        return job.future

    def _may_begin(self, job: _Job, *, or_queue: bool = False) -> bool:
        """Take a place for a job, if there is one."""
        guard = job.guard
        with self._lock:
            of_run = self._runs.setdefault(guard, _OfRun())
            if not of_run.waiting and self._has_room(guard, of_run):
                self._take(guard, of_run)
                return True
            if or_queue:
                of_run.waiting[job] = None
                self._waiting[guard] = of_run
            return False

    def _has_room(self, guard: Guard, of_run: _OfRun) -> bool:
        if of_run.running_count >= self._per_run:
            return False
        return self._running_count < self._most or not self._of_owners[guard.owner]

    def _take(self, guard: Guard, of_run: _OfRun) -> None:
        of_run.running_count += 1
        self._running_count += 1
        self._of_owners[guard.owner] += 1

    def _begin(self, jobs: list[_Job]) -> None:
        """Start jobs that have a place."""
        while jobs:
            job = jobs.pop(0)
            if not self._is_wanted(job):
                jobs += self._end(job)
                continue
            try:
                self._threads.do(partial(self._execute, [job]))
            except BaseException as error:
                job.got_no_thread = True
                jobs += self._end(job)
                job.future.set_exception(error)

    def _is_wanted(self, job: _Job) -> bool:
        """Tell whether a job with a place is still to begin; from now on it can't be cancelled."""
        if not job.future.set_running_or_notify_cancel():
            return False
        waited, job.work = job.work, job.guard.in_flight.begin_work("thread", job.label)
        if waited:
            job.guard.in_flight.end_work(waited)
        return True

    def _execute(self, first: list[_Job]) -> None:
        """Execute a job in this thread, and then one that waits for a place."""
        jobs = first
        while jobs:
            job = jobs.pop(0)
            result: Any = None
            error: BaseException | None = None
            try:
                result = job.function()
            except BaseException as raised:  # SystemExit too: it is the awaiting code's
                error = raised
            future = job.future
            jobs += self._end(job)
            del job  # it keeps the function, and its arguments
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, result, error  # the error's traceback has this frame
            while jobs and not self._is_wanted(jobs[0]):
                jobs += self._end(jobs.pop(0))
            others = jobs[1:]
            del jobs[1:]
            self._begin(others)

    def _end(self, job: _Job) -> list[_Job]:
        """Take a job's place from it, which has left; return those that have places now."""
        guard = job.guard
        with self._lock:
            self._running_count -= 1
            self._of_owners[guard.owner] -= 1
            if not self._of_owners[guard.owner]:
                del self._of_owners[guard.owner]
            of_run = self._runs[guard]
            of_run.running_count -= 1
            next_ones = self._take_next()
            self._forget(guard, of_run)
        guard.in_flight.end_work(job.work)
        return next_ones

    def _take_next(self) -> list[_Job]:
        """Take places for the jobs that may begin now, at most one of each run."""
        found = []
        for guard, of_run in list(self._waiting.items()):
            if self._has_room(guard, of_run):
                job, _ = of_run.waiting.popitem(last=False)
                self._take(guard, of_run)
                found.append(job)
                self._waiting.move_to_end(guard)
                if not of_run.waiting:
                    del self._waiting[guard]
        return found

    def _leave_queue(self, job: _Job, future: Future[Any]) -> None:
        """Forget a job that was cancelled before it began."""
        if not future.cancelled():
            return
        with self._lock:
            of_run = self._runs.get(job.guard)
            if of_run is None or job not in of_run.waiting:
                return
            del of_run.waiting[job]
            if not of_run.waiting:
                self._waiting.pop(job.guard, None)
            self._forget(job.guard, of_run)
        job.guard.in_flight.end_work(job.work)

    def _forget(self, guard: Guard, of_run: _OfRun) -> None:
        if not of_run.running_count and not of_run.waiting:
            self._runs.pop(guard, None)
