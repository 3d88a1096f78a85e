"""Bound the time of a call that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["ask"]

T = TypeVar("T")

_lock = threading.Lock()
_asking: dict[Callable[[], Any], Future[Any]] = {}
_threads = ThreadPoolExecutor(4, thread_name_prefix="probe")


def ask(question: Callable[[], T], seconds: float) -> T:
    """Call ``question`` in a thread; callers with the same question meanwhile share its answer.

    Raises:
        TimeoutError: no answer within ``seconds``. The call keeps running, and the next caller
            waits for it.
    """
    with _lock:
        asking: Future[T] | None = _asking.get(question)
        if asking is None or asking.done():
            asking = _asking[question] = _threads.submit(question)
    return asking.result(seconds)
