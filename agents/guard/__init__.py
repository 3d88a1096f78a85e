"""The guard of a run: every call of its tools goes through it.

``guard`` admits calls and traces them, ``in_flight`` knows what the run's end waits for, and
``cuts`` is what a stop cuts.
"""

from .guard import Call, Guard, bind_guard, current_call, current_guard, guard_in
from .in_flight import WORK_KINDS, WorkKind, speak_last
from .waiting import wait_out

__all__ = [
    "WORK_KINDS",
    "Call",
    "Guard",
    "WorkKind",
    "bind_guard",
    "current_call",
    "current_guard",
    "guard_in",
    "speak_last",
    "wait_out",
]
