"""The guard of a run: every call of its tools goes through it.

``guard`` admits calls and traces them, ``in_flight`` knows what the run's end waits for, and
``cuts`` is what a stop cuts. ``carrying`` knows the network work of calls.
"""

from .carrying import carried, carrying, is_carried
from .guard import Call, Guard, Unwatched, bind_guard, current_call, current_guard, guard_in
from .in_flight import WORK_KINDS, WorkKind, speak_last
from .waiting import wait_out

__all__ = [
    "WORK_KINDS",
    "Call",
    "Guard",
    "Unwatched",
    "WorkKind",
    "bind_guard",
    "carried",
    "carrying",
    "current_call",
    "current_guard",
    "guard_in",
    "is_carried",
    "speak_last",
    "wait_out",
]
