"""Other ways to use smolagents. The name says what is used."""

from __future__ import annotations

from smolagents import CodeAgent, LogLevel, ToolCallingAgent, tool

from ..rows.smolagents import open_model
from ..rows.tools import Hear, SyncLook

__all__ = ["IN_A_TOOL", "IN_CODE"]


def a_managed_agent_in_thread(look: SyncLook, hear: Hear) -> None:
    """The model asks for ``look``, which is an agent that looks."""
    with open_model() as model:
        inner = ToolCallingAgent(
            [tool(look)], model, name="inner", description="Looks.", verbosity_level=LogLevel.OFF
        )

        def delegate(what: str) -> str:
            return str(inner.run(what))

        delegate.__name__, delegate.__doc__ = look.__name__, look.__doc__
        ToolCallingAgent([tool(delegate)], model, verbosity_level=LogLevel.OFF).run("Look.")


def code_in_thread(look: SyncLook, hear: Hear) -> None:
    with open_model() as model:
        CodeAgent(
            [tool(look)],
            model,
            max_steps=20,
            verbosity_level=LogLevel.OFF,
            executor_kwargs={"timeout_seconds": None},
        ).run("Look.")


def code_with_a_time_limit_in_def_agent(look: SyncLook, hear: Hear) -> None:
    """Let the code run in yet another thread: there ``tools`` refuse, and that is all.

    ``check_should_stop()`` knows no run there.
    """
    with open_model() as model:
        CodeAgent([tool(look)], model, max_steps=20, verbosity_level=LogLevel.OFF).run("Look.")


IN_A_TOOL = [a_managed_agent_in_thread]
IN_CODE = [code_in_thread, code_with_a_time_limit_in_def_agent]
