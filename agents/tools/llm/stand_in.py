"""The stand-in for a model: it answers the OpenAI protocol, without a network and without a key.

With it a newcomer and the tests can run everything for real. It answers with sentences of the
prompt, at the pace of a person reading, under the model name ``stand-in``. This module knows no
guard and no run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from agents.process.own_threads import COMPUTING

from .extract import extract_summary
from .usage import CHARACTERS_PER_TOKEN, tokens_of

__all__ = ["STAND_IN", "StandIn"]

STAND_IN = "stand-in"
WORDS_PER_SECOND = 20.0
WORDS_PER_PIECE = 4
# Real models read a prompt before they answer. Without this pause a document that repeats itself is
# summarised before a newcomer has found Stop.
PROMPT_CHARACTERS_PER_SECOND = 6_000.0
LONGEST_PROMPT_SECONDS = 2.5
DEFAULT_WORDS = 60
LARGE = 50_000  # characters: a thread reads longer documents

_LENGTH = re.compile(r"(\d[\d,]*)\s*-?\s*words?\b", re.IGNORECASE)
_HALF = re.compile(r"\bhalf\b.{0,20}\blength\b", re.IGNORECASE)
_TAGGED = re.compile(r"<(document|text|notes|content)>(.*)</\1>", re.IGNORECASE | re.DOTALL)


class StandIn(httpx2.AsyncBaseTransport):
    """Answers ``POST .../chat/completions``, streamed or not, and ``GET .../models``.

    Args:
        speed: how many times as fast as a person reads; ``math.inf`` for at once.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be positive, not {speed!r}")
        self.speed = speed
        self._numbers = itertools.count(1)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.rstrip("/")
        if request.method == "GET" and path.endswith("/models"):
            model = {"id": STAND_IN, "object": "model", "created": 0, "owned_by": "halting"}
            return httpx2.Response(200, json={"object": "list", "data": [model]})
        if request.method != "POST" or not path.endswith("/chat/completions"):
            return _refusal(404, f"Unknown request: {request.method} {path}")
        try:
            asked = _parse(await request.aread())
        except _Invalid as problem:
            return _refusal(400, *problem.args)
        if len(asked.document) > LARGE:
            reply = await COMPUTING.run(_reply, asked)
        else:
            reply = _reply(asked)
        reply.id = f"chatcmpl-stand-in-{next(self._numbers)}"
        reading = min(
            LONGEST_PROMPT_SECONDS, asked.prompt_characters / PROMPT_CHARACTERS_PER_SECOND
        )
        await asyncio.sleep(reading / self.speed)
        if asked.stream:
            return httpx2.Response(
                200,
                headers={"Content-Type": "text/event-stream; charset=utf-8"},
                content=self._events(reply, asked.include_usage),
            )
        for piece in reply.pieces:
            await asyncio.sleep(self._pause(piece))
        return httpx2.Response(200, json=reply.as_completion())

    def _pause(self, piece: str) -> float:
        return len(piece.split()) / (WORDS_PER_SECOND * self.speed)

    async def _events(self, reply: _Reply, include_usage: bool) -> AsyncIterator[bytes]:
        for piece, chunk in reply.chunks(include_usage):
            await asyncio.sleep(self._pause(piece))
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        yield b"data: [DONE]\n\n"


class _Invalid(Exception):
    """A message, and the parameter that it is about, if any."""


@dataclass(slots=True)
class _Asked:
    document: str  # from the last message of the user
    instructions: str  # may say how long the answer is to be
    prompt_characters: int
    max_tokens: int | None
    stream: bool
    include_usage: bool


@dataclass(slots=True)
class _Reply:
    text: str
    finish_reason: str
    prompt_tokens: int
    created: int
    id: str = ""

    @property
    def pieces(self) -> list[str]:
        words = re.findall(r"\S+\s*", self.text)
        steps = range(0, len(words), WORDS_PER_PIECE)
        return ["".join(words[step : step + WORDS_PER_PIECE]) for step in steps]

    @property
    def usage(self) -> dict[str, int]:
        completion = tokens_of(len(self.text))
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def as_completion(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}

    def chunks(self, include_usage: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each piece of text ("" for none) with the chunk that carries it."""
        head = self._head("chat.completion.chunk")
        if include_usage:
            head["usage"] = None
        yield "", {**head, "choices": [_choice({"role": "assistant", "content": ""})]}
        for piece in self.pieces:
            yield piece, {**head, "choices": [_choice({"content": piece})]}
        yield "", {**head, "choices": [_choice({}, self.finish_reason)]}
        if include_usage:
            yield "", {**head, "choices": [], "usage": self.usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": STAND_IN}


def _choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _refusal(status: int, message: str, param: str | None = None) -> httpx2.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return httpx2.Response(status, json={"error": error})


def _parse(body: bytes) -> _Asked:
    try:
        asked = json.loads(body)
    except ValueError:
        raise _Invalid("The body is not JSON.") from None
    if not isinstance(asked, dict):
        raise _Invalid("The body is not a JSON object.")
    if not isinstance(asked.get("model"), str):
        raise _Invalid("'model' must be a string.", "model")
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Invalid("'messages' must be a list with at least one message.", "messages")
    said = [_role_and_text(message, place) for place, message in enumerate(messages)]
    last = next((text for role, text in reversed(said) if role == "user"), "")
    instructions, document = _divide(last)
    system = "\n".join(text for role, text in said if role in ("system", "developer"))
    options = asked.get("stream_options")
    return _Asked(
        document=document,
        instructions=f"{system}\n{instructions}",
        prompt_characters=sum(len(text) for _, text in said),
        max_tokens=_positive(asked, "max_completion_tokens") or _positive(asked, "max_tokens"),
        stream=asked.get("stream") is True,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
    )


def _role_and_text(message: object, place: int) -> tuple[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _Invalid(f"'messages[{place}]' must be an object with a role.", "messages")
    role, content = message["role"], message.get("content")
    if content is None or isinstance(content, str):
        return role, content or ""
    if not isinstance(content, list):
        raise _Invalid(f"'messages[{place}].content' must be text or a list.", "messages")
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return role, "\n".join(text for text in parts if isinstance(text, str))


def _divide(text: str) -> tuple[str, str]:
    """Return the request in a message, and the document that it comes with."""
    tagged = _TAGGED.search(text)
    if tagged:
        return text[: tagged.start()] + text[tagged.end() :], tagged[2]
    first, gap, rest = text.strip().partition("\n\n")
    is_request = len(first) < 600 and (first.rstrip().endswith(":") or _LENGTH.search(first))
    return (first, rest) if gap and rest.strip() and is_request else ("", text)


def _positive(asked: Mapping[str, Any], name: str) -> int | None:
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _Invalid(f"'{name}' must be a positive integer.", name)
    return value


def _reply(asked: _Asked) -> _Reply:
    text = extract_summary(asked.document, _wanted_words(asked))
    if not text:
        text = "This is the stand-in for a model. There was nothing to read."
    finish_reason = "stop"
    if asked.max_tokens is not None and tokens_of(len(text)) > asked.max_tokens:
        text = text[: asked.max_tokens * CHARACTERS_PER_TOKEN].rsplit(None, 1)[0]
        finish_reason = "length"
    return _Reply(text, finish_reason, tokens_of(asked.prompt_characters), int(time.time()))


def _wanted_words(asked: _Asked) -> int:
    named = _LENGTH.findall(asked.instructions)
    if named:
        return max(1, int(named[-1].replace(",", "")[:9]))
    if _HALF.search(asked.instructions):
        return max(1, len(asked.document.split()) // 2)
    return DEFAULT_WORDS
