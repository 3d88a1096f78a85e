"""Gemini's protocol: generateContent, streamed or not, and embedContent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..content import mappings
from .asked import UNKNOWN, Asked, characters_in

__all__ = ["embed", "generate"]

_MODEL: Final = re.compile(r"/([^/:]+):[^/:]+$")
_REASONS: Final = {"STOP": "stop", "MAX_TOKENS": "length"}
_UNSAID: Final = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")


def generate(path: str, body: Mapping[str, Any]) -> Asked | None:
    """Read a request for content."""
    contents = body.get("contents")
    if not isinstance(contents, list | Mapping):
        return None
    system = body.get("systemInstruction") or body.get("system_instruction")
    return Asked(_named(path), characters_in(contents) + characters_in(system), _translate)


def embed(path: str, body: Mapping[str, Any]) -> Asked | None:
    """Read a request for one embedding, or for several."""
    wanted = body.get("requests") or [body]
    contents = [each.get("content") for each in mappings(wanted)]
    if not any(contents):
        return None
    return Asked(_named(path), characters_in(contents), None)


def _named(path: str) -> str:
    found = _MODEL.search(path)
    return found[1] if found else UNKNOWN


def _translate(value: object) -> Iterator[object]:
    if isinstance(value, list):  # a stream that was not asked for as events
        for item in value:
            yield from _translate(item)
    elif isinstance(value, Mapping) and value.get("error"):
        yield value
    elif isinstance(value, Mapping):
        choices = [_choice(candidate) for candidate in mappings(value.get("candidates"))]
        feedback = value.get("promptFeedback")
        if not choices and isinstance(feedback, Mapping) and feedback.get("blockReason"):
            choices = [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]
        yield {
            "model": value.get("modelVersion"),
            "choices": choices,
            "usage": _usage(value.get("usageMetadata")),
        }


def _choice(candidate: Mapping[str, Any]) -> dict[str, Any]:
    content = candidate.get("content")
    parts, calls = [], []
    for part in mappings(content.get("parts")) if isinstance(content, Mapping) else ():
        call, text = part.get("functionCall"), part.get("text")
        if isinstance(call, Mapping):
            function = {"name": call.get("name"), "arguments": call.get("args") or {}}
            calls.append({"id": call.get("id"), "function": function})
        elif isinstance(text, str):
            parts.append({"type": "thinking" if part.get("thought") else "text", "text": text})
    reason = candidate.get("finishReason")
    if isinstance(reason, str):
        reason = "content_filter" if reason in _UNSAID else _REASONS.get(reason, reason.lower())
    delta = {"content": parts, "tool_calls": calls}
    return {"index": candidate.get("index"), "delta": delta, "finish_reason": reason}


def _usage(usage: object) -> dict[str, Any] | None:
    """Return a usage; in a stream it is the total so far."""
    if not isinstance(usage, Mapping):
        return None
    return {
        "input_tokens": _sum(usage, "promptTokenCount", "toolUsePromptTokenCount"),
        "output_tokens": _sum(usage, "candidatesTokenCount", "thoughtsTokenCount"),
    }


def _sum(usage: Mapping[str, Any], *names: str) -> int | None:
    counts = [usage[name] for name in names if type(usage.get(name)) is int]
    return sum(counts) if counts else None
