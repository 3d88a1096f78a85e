"""End a process although threads go on that an agent has left.

At its end Python waits for each thread that is no daemon, however long it takes, and may abort if a
daemon writes meanwhile. No thread can be ended from outside. So the process names what is left, and
ends with the status that its own work has.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import agents
import runs

__all__ = ["LINGER_SECONDS", "leave", "leave_within", "threads_left"]

logger = logging.getLogger(__name__)

LINGER_SECONDS = 3.0  # for threads that end by themselves
_POLL_SECONDS = 0.05

_STDLIB = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib"))
_PACKAGES = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("purelib", "platlib"))
_OURS = tuple(f"{Path(str(each.__file__)).parent}{os.sep}" for each in (agents, runs))
_SAMPLES = f"{_OURS[0]}samples{os.sep}"

_leaving = threading.Lock()


def leave(status: int, *, seconds: float = LINGER_SECONDS) -> None:
    """Return if no agent's thread goes on; otherwise end the process after ``seconds``.

    Call it last in the main thread: Python ends then. Threads that end within ``seconds`` are
    waited for.
    """
    end = time.monotonic() + seconds
    while threads_left():
        if time.monotonic() > end:
            _end(status)
        time.sleep(_POLL_SECONDS)


def leave_within(seconds: float, status: int) -> None:
    """End the process after ``seconds``, unless it has ended by then. Returns at once."""
    timer = threading.Timer(seconds, _end, args=(status,))
    timer.daemon = True
    timer.start()


def threads_left() -> list[str]:
    """Name the code of agents that goes on in threads, as ``function (file.py:12)``.

    A thread that waits for work (of a pool) has no such code, nor have those of this project. A
    daemon is an agent's if code is in it that is not installed: libraries have daemons, too.
    """
    frames = sys._current_frames()
    known = (threading.main_thread(), threading.current_thread())
    return [
        name
        for thread in threading.enumerate()
        if thread not in known and (name := _foreign_code(thread, frames.get(thread.ident or 0)))
    ]


def _foreign_code(thread: threading.Thread, frame: FrameType | None) -> str:
    for each in _outwards(frame):
        file = each.f_code.co_filename
        if file.startswith(_PACKAGES):  # may lie below the standard library's folder
            is_foreign = not thread.daemon
        elif file.startswith(_OURS):
            is_foreign = file.startswith(_SAMPLES)
        else:
            is_foreign = not file.startswith(("<", *_STDLIB))
        if is_foreign:
            return f"{each.f_code.co_name} ({Path(file).name}:{each.f_lineno})"
    return ""


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _end(status: int) -> None:
    """End the process now, whatever its threads do; returns in no thread."""
    with _leaving:  # held for ever: the second caller waits here for the end
        with contextlib.suppress(Exception):
            if left := threads_left():
                logger.warning("the process leaves threads that go on: %s", "; ".join(left))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)
