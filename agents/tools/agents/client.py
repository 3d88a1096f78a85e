"""``tools.agents``: one agent calls another, or starts one that any worker may take.

Each is a run of its own, with a log of its own, below the caller's. A stop of the caller stops it,
too; a stop of the called run alone comes back as ``SubAgentStopped``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agents.environment import AgentCaller, ChildEnd, ChildRun, StartedRun
from agents.guard import Call, Guard

from .handle import NOT_WAITED_FOR, AgentHandle, note_called, note_started, result_of

__all__ = ["AgentClient"]


class AgentClient:
    """Calls agents by name, as sub-agents of this run."""

    def __init__(self, guard: Guard, caller: AgentCaller) -> None:
        self._guard = guard
        self._caller = caller

    async def call(self, name: str, input: object = None) -> Any:
        """Run agent ``name`` on ``input`` (its parameters by name) and return its result.

        The result is JSON, as the child's record has it. A stop of this run stops the child, too;
        ``AgentStopped`` comes out here when the child has ended. A caller that stops waiting (a
        time limit, a cancelled task) also stops the child and waits for its end.

        Raises:
            AgentNotFound, InvalidInput, AgentCallTooDeep: nothing was started, no record exists.
            SubAgentFailed: the child ended in an error.
            SubAgentStopped: the child was stopped, this run was not.
            AgentStopped: this run was asked to stop.
        """
        guard = self._guard
        with guard.call("agents.call", str(name), in_cleanup=False, agent=str(name)) as call:
            child = await self._start(call, name, {} if input is None else input)
            end = await self._end_of(call, child)
            call.data["status"] = end.status
            return result_of(guard, "agents.call", str(name), child.id, end)

    async def start(self, name: str, input: object = None) -> AgentHandle:
        """Queue a run of agent ``name`` for any worker, and return a handle to it.

        When this agent's function has returned, the runtime stops what it has started and neither
        waited for nor left. This run is over when all of them are.

        Raises:
            AgentNotFound, InvalidInput, AgentCallTooDeep: nothing was started, no record exists.
            AgentStopped: this run was asked to stop.
        """
        guard = self._guard
        handles: list[AgentHandle] = []
        options: dict[str, Any] = {
            "in_cleanup": False,
            "is_cuttable": False,
        }  # a child that exists needs a handle
        with guard.call("agents.start", str(name), agent=str(name), **options) as call:

            def record(child: StartedRun) -> None:
                call.data["run"] = child.id
                handles.append(AgentHandle(guard, str(name), child))
                note_started(guard, handles[0])

            work = self._caller.queue(name, {} if input is None else input)
            try:
                await call.uninterrupted(work, record)
            except asyncio.CancelledError:
                for handle in handles:  # it exists, and its caller gets no handle
                    guard.create_task(handle.stop(NOT_WAITED_FOR))
                raise
        return handles[0]

    async def _start(self, call: Call, name: str, input: object) -> ChildRun:
        started: list[ChildRun] = []

        def record(child: ChildRun) -> None:
            started.append(child)
            call.data["run"] = child.id

        try:
            return await call.uninterrupted(self._caller.start(name, input), record)
        except asyncio.CancelledError:
            for child in started:  # it was created while its caller was cancelled
                call.mark_incomplete()
                child.give_up()
                await self._end_of(call, child)
            raise

    async def _end_of(self, call: Call, child: ChildRun) -> ChildEnd:
        guard = self._guard

        def give_up() -> None:
            if not guard.host_cancelled:  # else the host has cancelled the child, too
                child.give_up()

        waiting = guard.create_task(child.wait())
        interruption = await call.wait_for(waiting, give_up)
        if not waiting.done():  # an abort: the runtime waits when the agent's code has returned
            waiting.cancel()
            note_called(guard, call.label, child)
            call.refuse()
        if interruption is None:
            return waiting.result()
        if guard.token.stopped:  # cut by a TaskGroup, because a guard refused another branch
            guard.token.refuse("agents.call", call.label)
        raise interruption
