"""A server on 127.0.0.1 that answers each POST as told, whatever its path: any model's protocol."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .llm_server import Answer, LLMServer, Request

__all__ = ["TrafficServer", "events"]


class TrafficServer(LLMServer):
    """Streams ``answer.chunks``, or sends ``answer.body``; without either, chat completions."""

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        if request.method != "POST":
            return await super()._respond(request, writer)
        answer = self.answers.popleft() if self.answers else self.answer
        if answer.chunks is None or answer.status != 200:
            return await self._complete(request, answer, writer)
        await self._hold("start")
        return await self._stream(request, answer, "", writer)


def events(*values: dict[str, Any], is_named: bool = True) -> Answer:
    """Return a stream of events, named by their ``type``, without [DONE]."""
    chunks = [
        (f"event: {value['type']}\n" if is_named else "") + f"data: {json.dumps(value)}\n\n"
        for value in values
    ]
    return Answer(chunks=chunks, done=False)
