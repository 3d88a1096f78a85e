"""A model's endpoint on 127.0.0.1 that speaks Anthropic's protocol as well as OpenAI's."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

from tests.support.llm_server import Answer, LLMServer, Request

__all__ = ["TURNS", "Answer", "ModelServer", "asking_for"]

TURNS = 40  # more than any agent of these tests makes if no stop ends it


class ModelServer(LLMServer):
    """Asks for the tool ``look`` in each reply, so that an agent's loop goes on and on."""

    def __init__(self) -> None:
        super().__init__()
        self.answers.extend(asking_for("look", number) for number in range(TURNS))

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        path = request.path.partition("?")[0]
        if request.method != "POST" or not path.endswith("/messages"):
            return await super()._respond(request, writer)
        answer = self.answers.popleft() if self.answers else self.answer
        if answer.status == 200:
            if request.body.get("stream"):
                answer = replace(answer, chunks=_events(answer), done=False)
            else:
                answer = replace(answer, body=_message(answer))
        return await self._complete(request, answer, writer)


def asking_for(tool: str, number: int, count: int = 1, **arguments: Any) -> Answer:
    """Return a reply that has a text, and calls a tool ``count`` times."""
    function = {"name": tool, "arguments": json.dumps(arguments or {"what": f"thing {number}"})}
    calls = [
        {"id": f"call_{number}_{each}", "type": "function", "function": function}
        for each in range(count)
    ]
    return Answer("Let me look.", tool_calls=calls, finish_reason="tool_calls")


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "test-model",
        "content": [{"type": "text", "text": answer.text}, *_tool_uses(answer)],
        "stop_reason": "tool_use" if answer.tool_calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 21, "output_tokens": 13},
    }


def _tool_uses(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in answer.tool_calls or ()
    ]


def _events(answer: Answer) -> list[str]:
    """Return the events of a stream, the first piece of text in the second chunk."""
    message = _message(answer)
    pieces = re.split(r"(?<= )", answer.text)
    events = [_text(0, piece) for piece in pieces] + [_event("content_block_stop", index=0)]
    for index, block in enumerate(_tool_uses(answer), 1):
        start = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        events.append(_event("content_block_start", index=index, content_block=start))
        events.append(_event("content_block_delta", index=index, delta=delta))
        events.append(_event("content_block_stop", index=index))
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    begin = _event("message_start", message={**message, "content": [], "stop_reason": None})
    begin += _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    end = _event("message_delta", delta=delta, usage={"output_tokens": 13})
    return [begin, *events, end, _event("message_stop")]


def _text(index: int, text: str) -> str:
    return _event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})


def _event(kind: str, **data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"
