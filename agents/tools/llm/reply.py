"""A model's reply, put together from its pieces.

The chat-completions protocol has many dialects, so the reading is lenient: an odd field counts as
missing, and only a reply that makes no sense as a whole is an error. This module knows neither HTTP
nor an SDK.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from agents.exceptions import LLMError

__all__ = ["LLMReply", "PartialReply", "TokenUsage", "ToolCall", "characters_of", "tokens_of"]

CHARACTERS_PER_TOKEN = 4


class _FunctionCall(TypedDict):
    """``arguments`` is text, JSON if the model did well."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A tool that the model wants called, as the protocol has it."""

    id: str
    type: str  # "function"
    function: _FunctionCall


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What one call used; ``estimated`` if the endpoint didn't say (4 characters a token)."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class LLMReply:
    """A model's whole reply.

    Attributes:
        text: "" if the model only wants tools called; its refusal, if it refused.
        tool_calls: the tools that it wants called; give them back in a message as they are.
        model: the model that answered, as the endpoint names it.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``content_filter`` or another word of
            the endpoint's; ``refusal`` if the model refused; None if the endpoint didn't say.
    """

    text: str
    tool_calls: list[ToolCall]
    usage: TokenUsage
    model: str
    finish_reason: str | None


class PartialReply:
    """The pieces of a reply that have come so far.

    Args:
        model: the name in the request.
        prompt_characters: to estimate what the endpoint doesn't report.

    Attributes:
        is_done: the endpoint has said that nothing follows.
    """

    def __init__(self, model: str, prompt_characters: int) -> None:
        self.is_done = False
        self._model = model
        self._prompt_characters = prompt_characters
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._hidden_characters = 0  # thoughts that are paid for and not shown
        self._tool_calls: list[ToolCall] = []
        self._by_index: dict[object, ToolCall] = {}
        self._finish_reason: str | None = None
        self._usage: TokenUsage | None = None
        self._has_choice = False

    @property
    def has_started(self) -> bool:
        """Whether anything came that has to be paid for."""
        said = self._text or self._refusal or self._tool_calls
        return bool(said or self._hidden_characters or self._usage)

    def add(self, data: object) -> str:
        """Add a chunk of a stream, or a whole completion; return the text in it to show.

        Raises:
            LLMError: it reports an error, or is not what the protocol says.
        """
        if not isinstance(data, Mapping):
            raise LLMError("the model's endpoint sent something that is not a JSON object")
        if data.get("error"):
            detail = detail_of(data["error"])
            raise LLMError(f"the model's endpoint reports an error: {detail}", detail=detail)
        if isinstance(data.get("model"), str) and data["model"]:
            self._model = data["model"]
        self._usage = _usage(data.get("usage")) or self._usage
        choices = _mappings(data.get("choices"))
        return "".join(self._add_choice(c) for c in choices if c.get("index") in (0, None))

    def _add_choice(self, choice: Mapping[str, Any]) -> str:
        self._has_choice = True
        if isinstance(choice.get("finish_reason"), str):
            self._finish_reason = choice["finish_reason"]
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, Mapping):
            return ""
        text = _text(delta.get("content"))
        refusal = _text(delta.get("refusal"))
        if text:
            self._text.append(text)
        if refusal:
            self._refusal.append(refusal)
        hidden = delta.get("reasoning_content") or delta.get("reasoning")
        self._hidden_characters += len(_text(hidden))
        for part in _mappings(delta.get("tool_calls")):
            self._add_tool_call(part)
        return text + refusal

    def _add_tool_call(self, part: Mapping[str, Any]) -> None:
        """Add to the call of the same index, or start one.

        Some endpoints send no index, or always 0, with whole calls: a new id starts a new call.
        """
        index, call_id = part.get("index"), str(part.get("id") or "")
        function = part.get("function")
        function = function if isinstance(function, Mapping) else {}
        known = self._by_index.get(index)
        if known is None or (call_id and known["id"] not in ("", call_id)):
            known = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            self._tool_calls.append(known)
            self._by_index[index] = known
        known["id"] = known["id"] or call_id
        known["function"]["name"] = known["function"]["name"] or str(function.get("name") or "")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            known["function"]["arguments"] += arguments
        elif arguments is not None:
            known["function"]["arguments"] += json.dumps(arguments)

    def finish(self) -> LLMReply:
        """Return the whole reply, or raise ``LLMError`` if it is not whole."""
        if not self._has_choice:
            raise LLMError("the model's endpoint answered without a choice")
        if not (self.is_done or self._finish_reason or self._usage):
            raise LLMError("the model's reply broke off")
        return self.so_far()

    def so_far(self) -> LLMReply:
        """Return what has come; its usage is estimated unless the endpoint reported it."""
        refusal = "".join(self._refusal)
        finish_reason = self._finish_reason
        if refusal and finish_reason in (None, "stop"):
            finish_reason = "refusal"
        return LLMReply(
            text="".join(self._text) or refusal,
            tool_calls=list(self._tool_calls),
            usage=self._usage or self._estimate(),
            model=self._model,
            finish_reason=finish_reason,
        )

    def _estimate(self) -> TokenUsage:
        calls = sum(
            len(call["function"]["name"]) + len(call["function"]["arguments"])
            for call in self._tool_calls
        )
        said = sum(map(len, self._text)) + sum(map(len, self._refusal)) + calls
        return TokenUsage(
            tokens_of(self._prompt_characters), tokens_of(said + self._hidden_characters), True
        )


def characters_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Count the characters of messages, for an estimate: their texts and arguments of tools."""
    count = 0
    for message in messages:
        count += len(_text(message.get("content")))
        for call in _mappings(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, Mapping):
                count += len(str(function.get("arguments") or ""))
    return count


def detail_of(error: object) -> str:
    """Return the message in an endpoint's error: an object, a text or something else."""
    if isinstance(error, Mapping):
        inner = error.get("error")
        if isinstance(inner, Mapping | str) and inner:
            return detail_of(inner)
        error = error.get("message") or error.get("detail") or json.dumps(error, default=str)
    text = " ".join(str(error or "").split())
    return "" if text.startswith("<") else text  # a proxy's page is no message


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Mapping):
                yield item


def _text(content: object) -> str:
    """Return the text of content, which is text or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in _mappings(content) if isinstance(part.get("text"), str))


def _usage(reported: object) -> TokenUsage | None:
    if not isinstance(reported, Mapping):
        return None
    counts = [reported.get("prompt_tokens"), reported.get("completion_tokens")]
    if not any(isinstance(count, int) for count in counts):
        return None
    given, said = (count if isinstance(count, int) else 0 for count in counts)
    return TokenUsage(given, said)


def tokens_of(characters: int) -> int:
    """Estimate how many tokens a text of this length has."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
