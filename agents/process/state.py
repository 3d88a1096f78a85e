"""Notice what an agent changes for the whole process, and put it right.

The runs of a process share its working directory, environment, logging and more (``values``).
These can't be kept apart. So each step that the code of a run takes on the loop, and each piece of
its work in a thread, is followed by a look: what has changed is put back, and the log of the run
says so. Where threads worked at the same time, it can't be told which run it was; then each is told
that it may have been another one. What code outside of runs changes while no run is here is what
the next runs find.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from agents.guard import Guard, Unwatched, current_guard, is_carried

from .values import DIRECTORY, ENVIRONMENT, QUICK, SLOW, Slow, read_quick, watch_loggers

__all__ = ["SharedState", "is_own_work", "own_work", "shared"]

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.001  # code outside of runs hardly ever changes something within this time
SLOW_SECONDS = 0.1  # the same, for what is slow to read
MOST_TOLD = 20  # runs that may have done it; of more, only the process's log tells

#: Events of Python's audit hooks: they name the thread, and so the run, that did it.
_AUDITED = {"os.chdir": DIRECTORY, "os.putenv": ENVIRONMENT, "os.unsetenv": ENVIRONMENT}
_STARTED: dict[str, Unwatched] = {
    "_thread.start_new_thread": "thread",
    "_thread.start_joinable_thread": "thread",  # by threading.Thread, from Python 3.13 on
    "subprocess.Popen": "process",
    "os.fork": "process",
    "os.forkpty": "process",
    "os.posix_spawn": "process",
}

_NETWORKS = (socket.AF_INET, socket.AF_INET6)

_is_own_work: contextvars.ContextVar[bool] = contextvars.ContextVar("agents_own", default=False)


@contextmanager
def own_work() -> Iterator[None]:
    """Surround the start of a thread or process that is the library's own, or that it watches.

    It is not counted among what a run leaves unwatched. The same holds for a connection.
    """
    reset = _is_own_work.set(True)
    try:
        yield
    finally:
        _is_own_work.reset(reset)


def is_own_work() -> bool:
    """Tell whether ``own_work`` surrounds this code."""
    return _is_own_work.get()


_popen = threading.local()  # whose arguments are noted until this thread starts something else


class SharedState:
    """Knows the right state of the process, and the runs that are at work."""

    def __init__(self) -> None:
        self.is_watching = False
        self._watcher_count = 0
        self._is_auditing = False
        # Reentrant: a finaliser may change the environment while this thread holds it.
        self._lock = threading.RLock()
        self._runs: set[Guard] = set()
        self._threads: Counter[Guard] = Counter()  # at work now, each in so many threads
        self._stepping: Guard | None = None  # whose code the loop executes now, or did last
        self._looked_at = self._remembered_at = float("-inf")
        self._right: tuple[Any, ...] = ()
        # What audit hooks tell: by which runs; None is a thread that lost its context.
        self._touched: dict[str, set[Guard | None]] = {}
        self._touched_by_host: set[str] = set()
        self._is_putting_back = False
        self._told: set[tuple[Guard, str]] = set()

    def watch(self) -> None:
        """Start. Repeats are counted."""
        with self._lock:
            self._watcher_count += 1
            if not self._is_auditing:
                self._is_auditing = True
                sys.addaudithook(self._audit)  # Python has no way to remove one
                _announce_threads()
            watch_loggers()
            self._remembered_at = float("-inf")
            self._remember()
            self.is_watching = True

    def unwatch(self) -> None:
        """End; as many times as ``watch``."""
        with self._lock:
            self._watcher_count -= 1
            self.is_watching = self._watcher_count > 0

    def begin(self, guard: Guard) -> None:
        """A run starts, and is to find the right state; on the loop."""
        if not self.is_watching:
            return
        with self._lock:
            if self._runs:
                self.look_quickly()
            else:  # no run is here that could have changed the state, so it is right
                self._remember()
            self._runs.add(guard)
        # The rest of this step is its code, but the loop does not know it yet.
        self._stepping = guard
        asyncio.get_running_loop().call_soon(
            self._end_first_step, guard, _hooks(), context=contextvars.Context()
        )

    def end(self, guard: Guard) -> None:
        """The code of a run has left, and its log is still open."""
        if not self.is_watching:
            return
        with self._lock:
            self.look_quickly()
            self._look_slowly(SLOW)
            self._runs.discard(guard)
            self._touched = {
                name: others for name, who in self._touched.items() if (others := who - {guard})
            }
            if self._told:
                self._told = {(run, what) for run, what in self._told if run is not guard}

    def step(self, guard: Guard, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Execute code of a run on the loop, and look at what it has done."""
        # What is there before, code outside of runs did, or a thread. A step that follows another
        # one at once finds nothing of that kind.
        is_due = time.monotonic() - self._looked_at > QUIET_SECONDS
        if is_due or self._threads or self._stepping is not None:
            self.look_quickly()
        self._stepping = guard
        hooks = _hooks()
        try:
            callback(*args)
        finally:
            if _hooks() != hooks:
                self._put_back_hooks(guard, hooks)
            if self._touched or read_quick() != self._right:
                self.look_quickly()
            self._stepping = None
            self._looked_at = time.monotonic()

    def _count_started(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count a thread or process that a run starts, and that no code waits for."""
        guard = current_guard()
        if guard is None or not self.is_watching or _is_own_work.get():
            return
        # A Popen may use posix_spawn, with the same list of arguments.
        argv = arguments[1] if event in ("subprocess.Popen", "os.posix_spawn") else None
        if event == "os.posix_spawn" and argv is getattr(_popen, "argv", None):
            return
        _popen.argv = argv
        guard.count_unwatched(_STARTED[event])

    def _count_connection(self, opened: socket.socket) -> None:
        """Count a connection over a network that a run opens, and no guarded call carries.

        Drivers of databases that are written in C, such as psycopg's, tell no hook of theirs.
        """
        guard = current_guard()
        if guard is None or not self.is_watching or _is_own_work.get() or is_carried():
            return
        if opened.family in _NETWORKS and opened.type == socket.SOCK_STREAM:
            guard.count_unwatched("connection")

    def _put_back_hooks(self, guard: Guard, hooks: tuple[Any, ...]) -> None:
        trace, profile, first, final = hooks
        name = "the hooks of debuggers and profilers"
        if sys.get_asyncgen_hooks() != (first, final):
            name = "the hooks of async generators"
            sys.set_asyncgen_hooks(first, final)
        sys.settrace(trace)
        sys.setprofile(profile)
        with self._lock:
            self._tell(name, {guard})

    def _end_first_step(self, guard: Guard, hooks: tuple[Any, ...]) -> None:
        if _hooks() != hooks:
            self._put_back_hooks(guard, hooks)
        self.look_quickly()
        self._stepping = None

    def enter_thread(self, guard: Guard) -> None:
        with self._lock:
            self._threads[guard] += 1

    def leave_thread(self, guard: Guard) -> None:
        """A piece of a run's work in a thread is over."""
        self.look_quickly()
        with self._lock:
            self._threads[guard] -= 1
            if not self._threads[guard]:
                del self._threads[guard]

    def look_quickly(self) -> None:
        """Look at what is quick to see; from any thread."""
        if self.is_watching and (self._touched or read_quick() != self._right):
            self._look()

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        what = _AUDITED.get(event)
        if what is None and event in _STARTED:
            self._count_started(event, arguments)
        elif event == "socket.connect":
            self._count_connection(arguments[0])
        if what is None or not self.is_watching or self._is_putting_back:
            return
        guard = current_guard()
        if guard is None and threading.current_thread() is threading.main_thread():
            self._touched_by_host.add(what)
        else:
            self._touched.setdefault(what, set()).add(guard)

    def _remember(self) -> None:
        if read_quick() != self._right:
            self._right = _copy(read_quick())
        now = time.monotonic()
        if now - self._remembered_at > SLOW_SECONDS or self._touched or self._touched_by_host:
            for each in SLOW:
                each.remember()
        self._remembered_at = now
        self._touched.clear()
        self._touched_by_host.clear()

    def _look(self) -> None:
        """Find what has changed, put it back, and tell."""
        with self._lock:
            at_work = set(self._threads)
            if self._stepping is not None:
                at_work.add(self._stepping)
            if not at_work:  # code outside of runs did it
                self._right = _copy(read_quick())
            for name in self._put_back_quick():
                self._tell(name, at_work)
            self._look_slowly([each for each in SLOW if each.name in self._touched])

    def _look_slowly(self, what: Iterable[Slow]) -> None:
        for each in what:
            if each.name in self._touched_by_host and each.name not in self._touched:
                self._touched_by_host.discard(each.name)
                each.remember()
            elif each.differs():
                self._put_back(each)
            elif self._touched and not self._touched.get(each.name, set()) & self._threads.keys():
                self._touched.pop(each.name, None)
            # else a hook told of it, which is called before the change: that may come in a moment

    def _put_back_quick(self) -> list[str]:
        values = read_quick()
        if values == self._right:
            return []
        found = []
        for (name, put), now, right in zip(QUICK.items(), values, self._right, strict=True):
            if now != right:
                found.append(name)
                _put(put, _copied(right))
        self._right = _copy(read_quick())  # what can't be put back stays
        return found

    def _put_back(self, each: Slow) -> None:
        name, touched = each.describe(), self._touched.pop(each.name, set())
        self._is_putting_back = True
        try:
            _put(each.put, each.right)
        finally:
            self._is_putting_back = False
        known = {guard for guard in touched if guard is not None}
        self._tell(name, known or self._runs)

    def _tell(self, name: str, who: Collection[Guard]) -> None:
        untold = [guard for guard in who if (guard, name) not in self._told]
        if not untold:
            return
        self._told.update((guard, name) for guard in untold if guard in self._runs)
        if len(who) == 1:
            message = (
                f"this run changed {name}, which all runs of the process share; it was put back"
            )
        else:
            message = (
                f"this run, or another one at the same time, changed {name}, which all runs of the"
                " process share; it was put back"
            )
        if len(untold) <= MOST_TOLD:
            for guard in untold:
                guard.trace.emit("log", {"level": "warning", "message": message})
        runs = ", ".join(guard.trace.run for guard in untold[:MOST_TOLD])
        # In no context, or it would be in the log of the run that found it.
        contextvars.Context().run(
            logger.warning, "%s was changed and put back; by one of these runs: %s", name, runs
        )


def _announce_threads() -> None:
    """Let the start of a thread be an event of the audit hooks, as it is from Python 3.12 on.

    Nothing else changes: threading calls this function by its private name. It can go with Python
    3.11.
    """
    if sys.version_info >= (3, 12):
        return
    start = threading._start_new_thread  # type: ignore[attr-defined]

    def announced(function: Any, *arguments: Any) -> Any:
        sys.audit("_thread.start_new_thread", function, *arguments)
        return start(function, *arguments)

    threading._start_new_thread = announced  # type: ignore[attr-defined]


def _hooks() -> tuple[Any, ...]:
    """Return the hooks of this thread: on the loop, all runs share them."""
    return sys.gettrace(), sys.getprofile(), *sys.get_asyncgen_hooks()


def _copy(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_copied(value) for value in values)


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _put(put: Any, right: Any) -> None:
    try:
        put(right)
    except Exception as error:  # of any kind: the rest is put back all the same
        contextvars.Context().run(logger.warning, "could not put it back: %r", error)


shared = SharedState()
