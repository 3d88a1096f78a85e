"""Let a request start, or refuse it, and note what kind of call it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agents.guard import Call, Guard, current_call
from agents.tools.llm.traffic.asked import Asked
from agents.tools.llm.traffic.watching import Watching

from .bodies import check

__all__ = ["Admitted", "admit"]


class Admitted(NamedTuple):
    """A request that may start.

    Attributes:
        call: the call that it is a part of, None outside any run.
        guard: given if the call is the request's own.
        watching: given if it is a call to a model.
    """

    call: Call | None = None
    guard: Guard | None = None
    watching: Watching | None = None

    def note_head(self, status: int, content_type: str) -> None:
        """Note how the request was answered, if its call is its own."""
        if self.watching is not None:
            self.watching.begin(status, content_type)
        elif self.call is not None and self.guard is not None:
            self.call.data["status"] = status


def admit(
    guard: Guard | None, method: str, host: str, asked: Asked | None, headers: Mapping[str, str]
) -> Admitted:
    """Let a request of the run that has ``guard`` start; None is outside any run.

    Within a call that is guarded already it is a part of that call, and is only checked.

    Args:
        asked: what it asks of a model, if it does.

    Raises:
        AgentStopped: a stop was requested.
        RunIsOver: the agent has returned.
    """
    call = current_call()
    if call is not None:
        if call.was_tried:  # this is another try, or another step: a new start
            call.token.admit(call.tool, call.label)
        else:
            call.is_sent = False  # if it is refused here
            check(call)
        admitted = Admitted(call)
    elif guard is None:
        return Admitted()
    elif asked is not None:
        watching = Watching(guard, asked, method, host, headers)
        call = watching.call.start()
        admitted = Admitted(call, guard, watching)
    else:  # the event says nothing else: paths hold secrets
        call = guard.call("http", f"{method} {host}", method=method, host=host).start()
        admitted = Admitted(call, guard)
    call.was_tried = True
    return admitted
