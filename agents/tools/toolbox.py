"""The tools of agents that are coroutines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..environment import Environment
from .agents.client import AgentClient
from .data_store import DataStore
from .http.client import open_client
from .llm.client import LLMReply, call_llm
from .notes import Notes

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

    @property
    def default_model(self) -> str:
        """The name of the model that ``call_llm`` uses when it is given none. Not guarded."""
        return self._environment.model.default_model

    @cached_property
    def http(self) -> httpx.AsyncClient:
        environment = self._environment
        return open_client(environment.guard, environment.transports)
