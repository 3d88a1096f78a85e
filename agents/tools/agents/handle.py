"""What ``tools.agents.start`` returns: a sub-agent that goes on beside its caller.

A run's children end before it does, always. So each handle is remembered with its run: when the
agent's function has returned, those that it has neither waited for nor left are asked to stop, and
all are waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from agents.environment import ChildEnd, StartedRun
from agents.exceptions import SubAgentFailed, SubAgentStopped
from agents.guard import Guard

__all__ = ["AgentHandle", "forget_started", "note_started", "result_of", "settle_started"]

NOT_WAITED_FOR = "its caller did not wait for it"


class AgentHandle:
    """A sub-agent that was started, here or on another worker.

    Made by ``tools.agents.start``. ``await handle`` is ``await handle.wait()``.

    Attributes:
        agent: its name.
        run: the id of its run.
    """

    def __init__(self, guard: Guard, agent: str, child: StartedRun) -> None:
        self.agent = agent
        self.run = child.id
        self._guard = guard
        self._child = child
        self._end: ChildEnd | None = None
        self._is_left = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return f"<AgentHandle {self.agent} {self.run}>"

    async def wait(self) -> Any:
        """Wait for its end, and return its result as its record has it; again gives the same.

        To stop waiting (a time limit, a cancelled task) is only that: the sub-agent goes on, and
        may be waited for again, stopped or left.

        Raises:
            SubAgentFailed: it ended in an error.
            SubAgentStopped: it was stopped, this run was not.
            AgentStopped: this run was asked to stop, and the sub-agent with it.
        """
        data = {"agent": self.agent, "run": self.run}
        with self._guard.call("agents.wait", self.agent, in_cleanup=False, **data) as call:
            end = await self._ended()
            if end is not None:
                call.data["status"] = end.status
            return result_of(self._guard, "agents.wait", self.agent, self.run, end)

    async def stop(self, reason: str = "") -> None:
        """Ask it, and all below it, to stop; does nothing if it is over.

        Not guarded, so that a ``finally`` may use it. Its end is not waited for.
        """
        await self._child.ask_to_stop(str(reason))

    def leave(self) -> None:
        """Let it go on by itself when this agent's function has returned.

        This run is not over before the sub-agent is. Not guarded.
        """
        self._is_left = True

    async def _ended(self) -> ChildEnd | None:
        if self._end is None:
            self._end = await self._child.wait()
            if self._end is not None:  # nothing is left to be settled, and its result may be large
                _started.get(self._guard, {}).pop(self, None)
        return self._end

    async def _settle(self) -> None:
        """Wait for its end on the runtime's behalf, the agent's code being over."""
        guard = self._guard
        data: dict[str, Any] = {"agent": self.agent, "run": self.run}
        call = guard.call("agents.wait", self.agent, **data).start_unasked()
        error: BaseException | None = None
        try:
            # A stop of this run has reached it, too, whether it was left or not.
            if not self._is_left and not guard.token.stopped:
                await self._child.ask_to_stop(NOT_WAITED_FOR)
            end = await self._ended()
            if end is not None:
                call.data["status"] = end.status
        except BaseException as raised:
            error = raised
            raise
        finally:
            call.finish(error)


def result_of(guard: Guard, tool: str, agent: str, run: str, end: ChildEnd | None) -> Any:
    """Return the result of a sub-agent, or raise what its end means to its caller.

    ``end`` is None when the host goes away and does not know of one.
    """
    if end is not None and end.status == "success":
        return end.result
    if end is None or guard.token.stopped:  # whatever it made of it: it was cut short with us
        guard.token.refuse(tool, agent)
    if end.status == "error":
        error = dict(end.error or {})
        message = f"{agent} failed: {error.get('message', '')}"
        raise SubAgentFailed(message, agent=agent, run=run, error=error)
    raise SubAgentStopped(f"{agent} was stopped", agent=agent, run=run)


#: What the runs going on have started, as far as it may go on; in order. Used on their loop only.
_started: dict[Guard, dict[AgentHandle, None]] = {}


def note_started(guard: Guard, handle: AgentHandle) -> None:
    """Remember a handle until its end is known, or its caller's code is over."""
    _started.setdefault(guard, {})[handle] = None


def forget_started(guard: Guard) -> None:
    """Keep nothing of a run that is over."""
    _started.pop(guard, None)


async def settle_started(guard: Guard) -> None:
    """Wait until all that a run has started is over, its code having ended; for the runtime.

    What was neither waited for nor left is asked to stop. To cancel this gives up the waiting.
    """
    waiting = [guard.create_task(handle._settle()) for handle in _started.pop(guard, ())]
    if not waiting:
        return
    try:
        await asyncio.wait(waiting)
    finally:
        for task in waiting:
            task.cancel()
    for task in waiting:
        task.result()
