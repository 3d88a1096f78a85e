"""OpenAI's protocols: chat completions, completions, responses, embeddings.

Chat completions are what all other protocols are translated to, so they stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from ..content import mappings, text_of
from ..reply import characters_of
from .asked import UNKNOWN, Asked, as_it_is, characters_in, named

__all__ = ["completions", "embeddings", "responses"]

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)/")  # Azure: the model is in the path


def completions(path: str, body: Mapping[str, Any]) -> Asked | None:
    """Read a request for a chat completion, or a completion."""
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list) and messages:
        count = characters_of(list(mappings(messages)))
    elif isinstance(prompt, str | list) and prompt:
        count = characters_in(prompt)
    else:
        return None
    return _placed(path, Asked(named(body), count, as_it_is))


def responses(path: str, body: Mapping[str, Any]) -> Asked | None:
    """Read a request for a response."""
    if not isinstance(body.get("input"), str | list) or "model" not in body:
        return None
    count = characters_in(body["input"]) + characters_in(body.get("instructions"))
    return Asked(named(body), count, _response)


def embeddings(path: str, body: Mapping[str, Any]) -> Asked | None:
    """Read a request for embeddings."""
    if not isinstance(body.get("input"), str | list):
        return None
    return _placed(path, Asked(named(body), characters_in(body["input"]), None))


def _placed(path: str, asked: Asked) -> Asked:
    place = _DEPLOYMENT.search(path) if asked.model == UNKNOWN else None
    return replace(asked, model=place[1]) if place else asked


def _response(value: object) -> Iterator[object]:
    if not isinstance(value, Mapping):
        return
    kind = value.get("type")
    if value.get("object") == "response":
        yield from _whole(value)
    elif kind == "error" or value.get("error"):
        yield value
    elif isinstance(kind, str):
        yield from _event(kind, value)


def _event(kind: str, event: Mapping[str, Any]) -> Iterator[object]:
    response, index = event.get("response"), event.get("output_index")
    piece, item = event.get("delta"), event.get("item")
    if isinstance(response, Mapping):
        has_end = kind in ("response.completed", "response.incomplete", "response.failed")
        yield from _end(response) if has_end else [{"model": response.get("model")}]
    elif kind == "response.output_item.added" and isinstance(item, Mapping):
        call = _call(item)
        if call is not None:
            yield _delta(tool_calls=[{**call, "index": index}])
    elif not isinstance(piece, str):
        return
    elif kind == "response.output_text.delta":
        yield _delta(content=piece)
    elif kind == "response.refusal.delta":
        yield _delta(refusal=piece)
    elif kind.startswith("response.reasoning"):
        yield _delta(reasoning=piece)
    elif kind in (
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
    ):
        yield _delta(tool_calls=[{"index": index, "function": {"arguments": piece}}])


def _delta(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def _end(response: Mapping[str, Any], message: Mapping[str, Any] | None = None) -> Iterator[object]:
    """Give the end of a response, with its usage."""
    if response.get("status") == "failed":
        yield {"error": response.get("error") or "the response failed"}
        return
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    reason = {"max_output_tokens": "length", None: "stop"}.get(reason, reason)
    is_over = response.get("status") in ("completed", "incomplete", None)
    choice = {"index": 0, "message": message or {}, "finish_reason": reason if is_over else None}
    yield {
        "model": response.get("model"),
        "choices": [choice],
        "usage": response.get("usage"),
    }


def _whole(response: Mapping[str, Any]) -> Iterator[object]:
    message: dict[str, Any] = {"content": [], "tool_calls": []}
    for item in mappings(response.get("output")):
        if item.get("type") == "message":
            message["content"] += [_part(part) for part in mappings(item.get("content"))]
        elif item.get("type") == "reasoning":
            message["content"].append({"type": "reasoning", "text": text_of(item.get("summary"))})
        elif (call := _call(item)) is not None:
            message["tool_calls"].append(call)
    yield from _end(response, message)


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": part.get("type"), "text": part.get("text"), "refusal": part.get("refusal")}


def _call(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return an item that is a call of a tool of the caller's."""
    if item.get("type") not in ("function_call", "custom_tool_call"):
        return None
    given = item.get("arguments") or item.get("input") or ""
    return {"id": item.get("call_id"), "function": {"name": item.get("name"), "arguments": given}}
