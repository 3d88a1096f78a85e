"""Network work that a guarded call carries: it is neither guarded again, nor unwatched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .guard import Call, current_call

__all__ = ["carried", "carrying", "is_carried"]

_carrying: ContextVar[Call | None] = ContextVar("agents_carrying", default=None)


@contextmanager
def carried(call: Call | None) -> Iterator[None]:
    """Surround the network work of a call. None is that of no run, and does nothing."""
    if call is None:
        yield
        return
    reset = _carrying.set(call)
    try:
        yield
    finally:
        _carrying.reset(reset)


def carrying() -> Call | None:
    """Return the call whose network work this is; None for code that no guard has seen."""
    return _carrying.get()


def is_carried() -> bool:
    """Tell whether a guarded call surrounds this code: its network work, or the call itself."""
    return _carrying.get() is not None or current_call() is not None
