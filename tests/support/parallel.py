"""Helpers for the tests in tests/agents/cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agents.cancellation import (
    StopMode,
)

SECONDS = 10.0  # anything slower is a failure


MODES = list(StopMode)


def in_parallel(*work: Callable[[], Any]) -> list[Any]:
    """Call each function in a separate thread, all at the same moment."""
    start = threading.Barrier(len(work))

    def call(function: Callable[[], Any]) -> Any:
        start.wait(SECONDS)
        return function()

    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(call, function) for function in work]
        return [future.result(SECONDS) for future in futures]
