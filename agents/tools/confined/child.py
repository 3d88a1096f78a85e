"""The process that calls one function on bytes from outside, and ends.

``calls`` runs this file with an interpreter that imports nothing by itself. The process takes few
rights along: no environment, no open file but its pipes, little memory and time, and the lowest
place in the queue for the processor. This module must not import anything of ``agents``: that takes
most of a second.

Input: what to do, as JSON, and the content; before each its length, in 8 bytes.
Output: ``=`` and the result; ``!`` and why the function refuses; ``m`` if the memory is not enough;
``?`` and the name of another exception; ``i`` and its name if the function's module can't be
imported. All text is UTF-8.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import threading
import types
from typing import Any

NICENESS = 10
MAX_FILES = 64


def main() -> None:
    task = json.loads(_read_part())
    answers = os.dup(1)
    os.dup2(2, 1)  # what the function prints is no answer
    _limit(task["cpu_seconds"], task["memory_bytes"])
    _end_with_parent(task["parent"])
    sys.path[:] = task["path"]
    content = _read_part()
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()
    answer = _call(task, content)
    while answer:
        answer = answer[os.write(answers, answer) :]
    os._exit(0)


def _call(task: dict[str, Any], content: bytes) -> bytes:
    try:
        function = _function(task)
    except MemoryError:
        return b"m"
    except BaseException as error:  # a ValueError, too: it says nothing about the content
        return b"i" + type(error).__name__.encode("utf-8", "replace")
    try:
        result = str(function(content, task["about"]))
        return b"=" + result.encode("utf-8", "replace")
    except MemoryError:
        return b"m"
    except ValueError as error:
        return b"!" + str(error).encode("utf-8", "replace")
    except BaseException as error:
        return b"?" + type(error).__name__.encode("utf-8", "replace")


def _function(task: dict[str, Any]) -> Any:
    # The packages around the module are only places to look for it: their __init__ is not run.
    for name, places in task["packages"].items():
        package = types.ModuleType(name)
        package.__path__ = places
        sys.modules[name] = package
    return getattr(importlib.import_module(task["module"]), task["function"])


def _limit(cpu_seconds: int, memory_bytes: int) -> None:
    with contextlib.suppress(OSError):  # a system that forbids even this
        os.nice(NICENESS)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        # macOS knows RLIMIT_AS and refuses most values of it.
        with contextlib.suppress(ValueError, OSError):
            # At the soft limit of CPU time comes SIGXCPU, which tells the parent why this ended.
            resource.setrlimit(kind, (limit, limit + (kind == resource.RLIMIT_CPU)))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if the machine runs out of memory, this process goes first


def _end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where the kernel can (Linux)."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _wait_for_end_of_input() -> None:
    """End the process when its parent closes the pipe, or dies: on any system."""
    os.read(0, 1)
    os._exit(1)


def _read_part() -> bytes:
    return _read(int.from_bytes(_read(8), "big"))


def _read(count: int) -> bytes:
    chunks = []
    while count:
        chunk = os.read(0, min(count, 1 << 20))
        if not chunk:
            os._exit(1)
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


if __name__ == "__main__":
    main()
