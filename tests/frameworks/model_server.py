"""A model's endpoint on 127.0.0.1 that speaks OpenAI's protocols, Anthropic's and Gemini's."""

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
        spoken = next((way for end, way in _PROTOCOLS.items() if path.endswith(end)), None)
        if request.method != "POST" or spoken is None:
            return await super()._respond(request, writer)
        whole, events = spoken
        answer = self.answers.popleft() if self.answers else self.answer
        if answer.status != 200:
            return await self._complete(request, answer, writer)
        if request.body.get("stream") or ":stream" in path:
            await self._hold("start")
            answer = replace(answer, chunks=events(answer), done=False)
            return await self._stream(request, answer, "", writer)
        return await self._complete(request, replace(answer, body=whole(answer)), writer)


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


def _response(answer: Answer) -> dict[str, Any]:
    said = {"type": "output_text", "text": answer.text, "annotations": []}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [said],
    }
    calls = [
        {"id": f"fc_{call['id']}", "type": "function_call", "call_id": call["id"],
         "status": "completed", **call["function"]}
        for call in answer.tool_calls or ()
    ]  # fmt: skip
    counts = {"cached_tokens": 0, "reasoning_tokens": 0}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "test-model",
        "output": [message, *calls],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 21,
            "input_tokens_details": counts,
            "output_tokens": 13,
            "output_tokens_details": counts,
            "total_tokens": 34,
        },
    }


def _response_events(answer: Answer) -> list[str]:
    whole = _response(answer)
    begun = {**whole, "output": [], "usage": None, "status": "in_progress"}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index, "item_id": item["id"], "content_index": 0, "logprobs": []}
        start = {**item, **({"content": []} if "content" in item else {"arguments": ""})}
        kind, delta = "function_call_arguments", item.get("arguments")
        if delta is None:
            kind, delta = "output_text", answer.text
        events += [
            {"type": "response.output_item.added", "output_index": index, "item": start},
            {"type": f"response.{kind}.delta", "delta": delta, **place},
            {"type": "response.output_item.done", "output_index": index, "item": item},
        ]
    events.append({"type": "response.completed", "response": whole})
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
        for number, event in enumerate(events)
    ]


def _content(answer: Answer) -> dict[str, Any]:
    calls = [
        {"functionCall": {"name": block["name"], "args": block["input"]}}
        for block in _tool_uses(answer)
    ]
    content = {"role": "model", "parts": [{"text": answer.text}, *calls]}
    return {
        "candidates": [{"index": 0, "content": content, "finishReason": "STOP"}],
        "usageMetadata": {
            "promptTokenCount": 21,
            "candidatesTokenCount": 13,
            "totalTokenCount": 34,
        },
        "modelVersion": "test-model",
    }


def _content_events(answer: Answer) -> list[str]:
    return [f"data: {json.dumps(_content(answer))}\r\n\r\n"]


_PROTOCOLS = {
    "/messages": (_message, _events),
    "/responses": (_response, _response_events),
    ":generateContent": (_content, _content_events),
    ":streamGenerateContent": (_content, _content_events),
}
