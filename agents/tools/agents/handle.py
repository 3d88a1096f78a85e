"""What ``tools.agents.start`` returns: a handle to a sub-agent that any worker may run.

A run's children end before it does. So each handle is remembered with its run: when the agent's
function has returned, the runtime stops those that it has neither waited for nor left, and waits
for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, cast

from agents.cancellation import StopMode
from agents.environment import ChildEnd, ChildRun, StartedRun
from agents.exceptions import SubAgentFailed, SubAgentStopped
from agents.guard import Call, Guard

__all__ = ["AgentHandle", "forget_started", "note_started", "result_of", "settle_started"]

NOT_WAITED_FOR = "its caller did not wait for it"


class AgentHandle:
    """A sub-agent that was started. ``await handle`` is ``await handle.wait()``.

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
        """Wait for its end, and return its result as its record has it; repeats give the same.

        A caller that stops waiting (a time limit, a cancelled task) leaves the sub-agent running,
        and may wait for it again, stop it or leave it.

        Raises:
            SubAgentFailed: it ended in an error.
            SubAgentStopped: it was stopped, this run was not.
            AgentStopped: this run, and with it the sub-agent, was asked to stop.
        """
        data: dict[str, Any] = {"agent": self.agent, "run": self.run}
        with self._guard.call("agents.wait", self.agent, in_cleanup=False, **data) as call:
            end = await self._ended(call)
            return result_of(self._guard, "agents.wait", self.agent, self.run, end)

    async def stop(self, reason: str = "", *, mode: StopMode | str = StopMode.GRACEFUL) -> None:
        """Ask it, and all below it, to stop, without waiting for its end.

        ``mode`` "abort" cuts its calls in flight; "abandon" ends it at once, whether its code ends
        or not. A second call with a harder mode makes the stop harder.
        Does nothing if it is over. Not guarded, so that a ``finally`` may use it.

        Raises:
            ValueError: there is no such mode.
        """
        await self._child.ask_to_stop(str(reason), StopMode(mode))

    def leave(self) -> None:
        """Let it run on when this agent's function has returned. Not guarded.

        This run is not over before the sub-agent is.
        """
        self._is_left = True

    async def _ended(self, call: Call, *, is_cuttable: bool = True) -> ChildEnd | None:
        if self._end is None:
            waiting = self._child.wait()
            self._end = await (
                call.uninterrupted(waiting, is_wait=True) if is_cuttable else waiting
            )
        if self._end is not None:
            call.data["status"] = self._end.status
            # Nothing is left to settle, and its result may be large.
            _started.get(self._guard, {}).pop(self, None)
        return self._end

    async def _settle(self) -> None:
        """Wait for its end for the runtime, after the agent's code has returned."""
        call = self._guard.call("agents.wait", self.agent, agent=self.agent, run=self.run)
        call.start_unasked()
        error: BaseException | None = None
        try:
            # A stop of this run has stopped it, too, whether it was left or not.
            if not self._is_left and not self._guard.token.stopped:
                await self._child.ask_to_stop(NOT_WAITED_FOR)
            await self._ended(call, is_cuttable=False)
        except BaseException as raised:
            error = raised
            raise
        finally:
            call.finish(error)


def result_of(guard: Guard, tool: str, agent: str, run: str, end: ChildEnd | None) -> Any:
    """Return the result of a sub-agent, or raise what its end means to its caller.

    ``end`` is None when the host shuts down and knows of no end.
    """
    if end is not None and end.status == "success":
        return end.result
    if end is None or guard.token.stopped:  # whatever its status: it was stopped with its caller
        guard.token.refuse(tool, agent)
    if end.status == "error":
        error = dict(end.error or {})
        message = f"{agent} failed: {error.get('message', '')}"
        raise SubAgentFailed(message, agent=agent, run=run, error=error)
    raise SubAgentStopped(f"{agent} was stopped", agent=agent, run=run)


#: The handles of each run whose end is not known yet, in order. Used on the agents' loop only.
_started: dict[Guard, dict[AgentHandle, None]] = {}


def note_started(guard: Guard, handle: AgentHandle) -> None:
    """Remember a handle until its end is known, or its caller's code has returned."""
    _started.setdefault(guard, {})[handle] = None


def note_called(guard: Guard, agent: str, child: ChildRun) -> None:
    """Remember a called run that its caller does not wait for any more: a stop has cut the wait."""
    handle = AgentHandle(guard, agent, cast(StartedRun, child))  # stopped, so it is only waited for
    note_started(guard, handle)


def has_started(guard: Guard) -> bool:
    """Tell whether a run has started others whose end is not known yet."""
    return bool(_started.get(guard))


def forget_started(guard: Guard) -> None:
    """Forget the handles of a run that is over."""
    _started.pop(guard, None)


async def settle_started(guard: Guard) -> None:
    """Wait for the end of all that a run has started; for the runtime, after the run's code.

    Runs that were neither waited for nor left are asked to stop. A cancellation ends the wait.
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
