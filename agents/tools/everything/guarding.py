"""Guard the requests that code of runs makes with any client of the usual libraries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import httpx
import httpx2

from .importing import after_import
from .of_aiohttp import guard_aiohttp
from .of_httpx import guard_httpx
from .of_urllib3 import guard_urllib3
from .replacing import Replacements

__all__ = ["guard_everything"]

_lock = threading.Lock()
_undo: Callable[[], None] | None = None


def guard_everything() -> Callable[[], None]:
    """Make each request of a run a guarded call, whichever client makes it; return an undo.

    It holds for httpx, httpx2, aiohttp and urllib3 (so for requests and botocore, too), and for
    what is built on them. Call it once, when the process starts: sessions of aiohttp that exist
    already are not guarded. Requests outside any run stay as they are, and so do those in a thread
    that doesn't know its run. Repeats do nothing.
    """
    global _undo
    with _lock:
        if _undo is None:
            replacements = Replacements()
            guard_httpx(httpx, replacements)
            guard_httpx(httpx2, replacements)
            leave = [
                after_import("aiohttp", partial(guard_aiohttp, replacements=replacements)),
                after_import("urllib3", partial(guard_urllib3, replacements=replacements)),
            ]

            def undo() -> None:
                global _undo
                with _lock:
                    for each in leave:
                        each()
                    replacements.undo()
                    _undo = None

            _undo = undo
        return _undo
