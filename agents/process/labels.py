"""What code of a run is called where people see it: a name and a place, never a whole path."""

from __future__ import annotations

import contextvars
import functools
import os
from pathlib import PurePath
from types import CodeType
from typing import Any

__all__ = ["label_of", "name_of_program"]


def label_of(work: Any) -> str:
    """Return what a function, coroutine or generator is called: ``slow (agents.py:34)``.

    ``asyncio.to_thread`` and ``sync_to_async`` wrap a function; the label is the function's.
    """
    work = _unwrapped(work)
    name = getattr(work, "__qualname__", None)
    if not isinstance(name, str):
        work = type(work)
        name = work.__qualname__
    name = name.rpartition(".<locals>.")[2]
    code = _code_of(work)
    if code is not None:
        return f"{name} ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    module = getattr(work, "__module__", None)
    return f"{module}.{name}" if isinstance(module, str) and module != "builtins" else name


def name_of_program(program: object) -> str:
    """Return what a program is called, without its folder."""
    if not isinstance(program, str | bytes | os.PathLike):
        return type(program).__name__
    return PurePath(os.fsdecode(program)).name


def _unwrapped(work: Any) -> Any:
    while isinstance(work, functools.partial):
        of_function = getattr(work.func, "__self__", None)
        if isinstance(of_function, contextvars.Context) and work.args:  # of asyncio.to_thread
            work = work.args[0]
        elif getattr(work.func, "__name__", "") == "thread_handler" and work.args:  # of asgiref
            work = work.args[-1]
        else:
            work = work.func
    return getattr(work, "__wrapped__", work)


def _code_of(work: Any) -> CodeType | None:
    for name in ("__code__", "cr_code", "ag_code", "gi_code"):
        code = getattr(work, name, None)
        if isinstance(code, CodeType):
            return code
    return None
