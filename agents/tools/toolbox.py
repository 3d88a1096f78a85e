"""The tools of agents that are coroutines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..environment import Environment
from .agents.client import AgentClient
from .data_store import DataStore
from .http.client import open_client
from .llm.client import LLMReply, call_llm
from .notes import Notes
from .process.calls import ProcessResult, run_process

if TYPE_CHECKING:
    import httpx

__all__ = ["Tools"]


class Tools(Notes):
    """The tools of one run.

    Attributes:
        data_store: entries of the run's owner, see ``DataStore``.
        agents: calls and starts other agents, see ``AgentClient``.
        http: this run's own ``httpx.AsyncClient``; each of its requests is guarded.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment.guard)
        self._environment = environment
        self.data_store = DataStore(environment.guard, environment.data_store)
        self.agents = AgentClient(environment.guard, environment.agents)

    async def call_llm(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> LLMReply:
        """Ask a model, and return its whole reply; its text is shown as it comes.

        ``messages`` and ``tools`` are as in the OpenAI chat-completions API. Without ``model`` the
        configured one is used. ``parameters`` go to the endpoint as they are (``temperature=0``);
        ``stream=False`` asks for no stream; ``timeout``, ``extra_headers``, ``extra_query`` and
        ``extra_body`` mean what they do in the SDK.

        Raises:
            AgentStopped: a stop was requested.
            LLMError: the endpoint refused or failed, after the SDK's retries.
            AgentError: the endpoint could not take the request; nothing was sent.
        """
        env = self._environment
        return await call_llm(
            env.guard, env.model, messages, model_name=model, tools=tools, **parameters
        )

    async def process(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
    ) -> ProcessResult:
        """Run a program to its end, and return its exit and output.

        Its output goes to the run's log as it comes. A graceful stop waits for the program. A cut,
        such as by a time limit of the agent's own, ends it by SIGTERM, and 5 s later by SIGKILL. It
        has a process group of its own: what it leaves there ends with it, and all of it ends with
        the worker.

        Args:
            argv: the program and its arguments; no shell reads them.
            env: its whole environment. Without, it has PATH, HOME and the like, and none of the
                site's keys.
            input: for its standard input, which is empty without.

        Raises:
            AgentStopped: a stop was requested.
            OSError: ``cwd`` is no folder, or the system starts no more processes.
        """
        return await run_process(self._environment.guard, argv, cwd=cwd, env=env, input=input)

    @property
    def default_model(self) -> str:
        """The name of the model that ``call_llm`` uses when it is given none. Not guarded."""
        return self._environment.model.default_model

    @cached_property
    def http(self) -> httpx.AsyncClient:
        environment = self._environment
        return open_client(environment.guard, environment.transports)
