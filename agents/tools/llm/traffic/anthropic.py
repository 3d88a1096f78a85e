"""Anthropic's protocol: messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..content import mappings
from .asked import Asked, characters_in, named

__all__ = ["messages"]

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
_INPUT: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def messages(path: str, body: Mapping[str, Any]) -> Asked | None:
    """Read a request for a message."""
    asked = body.get("messages")
    if not isinstance(asked, list) or "max_tokens" not in body or "model" not in body:
        return None
    return Asked(named(body), characters_in(asked) + characters_in(body.get("system")), _translate)


def _translate(value: object) -> Iterator[object]:
    if not isinstance(value, Mapping):
        return
    match value:
        case {"type": "error"} | {"error": _}:
            yield value
        case {"type": "message", "content": content}:
            choice = {"index": 0, "message": _message(content), **_reason(value)}
            yield {**_head(value), "choices": [choice], "usage": _usage(value.get("usage"))}
        case {"type": "message_start", "message": dict(message)}:
            # The tokens of the reply, which is still to come, are not in this usage.
            usage = {**_usage(message.get("usage")), "output_tokens": None}
            yield {**_head(message), "usage": usage}
        case {"type": "content_block_start", "index": index, "content_block": dict(block)}:
            # A tool's input comes in pieces afterwards, and is an empty object here.
            yield _delta(_message([{**block, "input": ""}], index))
        case {"type": "content_block_delta", "index": index, "delta": dict(delta)}:
            yield _delta(_piece(delta, index))
        case {"type": "message_delta", "delta": dict(delta)}:
            choice = {"index": 0, "delta": {}, **_reason(delta)}
            yield {"choices": [choice], "usage": _usage(value.get("usage"))}


def _head(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": message.get("model")}


def _reason(holder: Mapping[str, Any]) -> dict[str, Any]:
    reason = holder.get("stop_reason")
    return {"finish_reason": _REASONS.get(reason, reason) if isinstance(reason, str) else None}


def _usage(usage: object) -> dict[str, Any]:
    """Return a usage whose input has what was read from a cache, or written to it, as well."""
    if not isinstance(usage, Mapping):
        return {}
    given = [usage[name] for name in _INPUT if type(usage.get(name)) is int]
    return {
        "input_tokens": sum(given) if given else usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
    }


def _message(content: object, index: int | None = None) -> dict[str, Any]:
    """Return a message of chat completions with what a list of blocks says."""
    parts, calls = [], []
    for block in mappings(content):
        if block.get("type") == "tool_use":
            function = {"name": block.get("name"), "arguments": block.get("input")}
            calls.append({"id": block.get("id"), "index": index, "function": function})
        elif block.get("type") in ("text", "thinking"):
            parts.append(block)
    return {"content": parts, "tool_calls": calls}


def _piece(delta: Mapping[str, Any], index: int) -> dict[str, Any]:
    match delta:
        case {"type": "text_delta", "text": text}:
            return {"content": text}
        case {"type": "thinking_delta", "thinking": text}:
            return {"reasoning": text}
        case {"type": "input_json_delta", "partial_json": text}:
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return {}


def _delta(delta: Mapping[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}
