"""A model that says what the test wants."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agents.tools.llm.client import Model
from agents.tools.llm.reply import PartialReply

from ..exceptions import AgentError
from ..guard import Guard

__all__ = ["Replies", "Reply", "ScriptedModel"]

Reply = str | Mapping[str, Any] | Exception
Replies = str | Iterable[Reply] | Callable[[list[dict[str, Any]]], Any]


class ScriptedModel(Model):
    """A model that says what the test wants, and keeps what it was asked.

    Attributes:
        calls: the requests so far: ``messages``, ``model``, and what else ``call_llm`` was given.

    Args:
        replies: one text for every call; or the replies in their order; or a function (a coroutine
            too) that gets the messages and returns a reply. A reply is a text, an assistant's
            message as in the OpenAI protocol (for ``tool_calls``), or an exception to raise, such
            as ``LLMError("no answer", status=503)``.
    """

    def __init__(self, replies: Replies = "A reply.") -> None:
        # Not Model's own __init__: there is no endpoint here, nor the SDK to reach one.
        self.is_stand_in = False
        self.default_model = "scripted"
        self.calls: list[dict[str, Any]] = []
        self._replies = replies if isinstance(replies, str) or callable(replies) else iter(replies)

    async def converse(
        self, guard: Guard, call: str, body: dict[str, Any], reply: PartialReply
    ) -> None:
        self.calls.append(copy.deepcopy(body))
        said = await self._next(body["messages"])
        if isinstance(said, Exception):
            raise said
        message = {"content": said} if isinstance(said, str) else dict(said)
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        text = reply.add({"choices": [{"index": 0, "message": message, "finish_reason": reason}]})
        guard.trace.text(call, text)

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""

    async def _next(self, messages: list[dict[str, Any]]) -> Reply:
        replies = self._replies
        if isinstance(replies, str):
            return replies
        if not callable(replies):
            try:
                return next(replies)
            except StopIteration:
                number = len(self.calls)
                raise AgentError(f"the script has no reply for call no. {number}") from None
        said: Any = replies(messages)
        if inspect.isawaitable(said):
            said = await said
        return said  # type: ignore[no-any-return]
