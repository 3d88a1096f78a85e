"""Runs of agents: their records, and every way to reach them.

The site's own code starts, watches and stops runs by the functions that this package gives: see
``runs.client``. They are imported with the first use: Django imports this package before models can
be imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runs.client import (
        Start,
        Started,
        Stream,
        aget,
        astart,
        astart_many,
        astop,
        get,
        start,
        start_many,
        stop,
        stream,
        until_over,
        wait,
    )

__all__ = [
    "Start",
    "Started",
    "Stream",
    "aget",
    "astart",
    "astart_many",
    "astop",
    "get",
    "start",
    "start_many",
    "stop",
    "stream",
    "until_over",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.client"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
