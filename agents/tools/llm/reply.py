"""A model's reply, put together from its chunks, and the one place that decides when it is whole.

The chat-completions protocol has many dialects, so the reading is lenient: an odd field counts as
missing, and only a reply that makes no sense as a whole is an error. docs/model-endpoints.md has
the rules in a table. This module knows neither HTTP nor an SDK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.exceptions import LLMError
from agents.values.storable import clean_text

from .content import MessageTexts, mappings, text_of
from .errors import FAILED, detail_of, remark_of, reported_error, status_of
from .pieces import TextPieces
from .tool_calls import ToolCall, ToolCalls
from .usage import TokenUsage, UsageReports

__all__ = ["LLMReply", "PartialReply", "TokenUsage", "ToolCall", "characters_of"]

MAX_EXTENT = 16 * 1024 * 1024  # characters of a reply: four million tokens
_CUT = ("length", "content_filter")  # reasons that a reply is short


@dataclass(frozen=True, slots=True)
class LLMReply:
    """A model's whole reply.

    Attributes:
        text: "" if the model only wants tools called; its refusal, if it refused.
        tool_calls: the tools that it wants called; give them back in a message as they are.
        model: the model that answered, as the endpoint names it.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``content_filter`` or another word of
            the endpoint's; ``refusal`` if the model refused; ``tool_calls`` also where the endpoint
            says ``stop`` or nothing with calls; None if the endpoint didn't say.
        reasoning: the model's thoughts, if the endpoint shows them. The log doesn't have them.
    """

    text: str
    tool_calls: list[ToolCall]
    usage: TokenUsage
    model: str
    finish_reason: str | None
    reasoning: str = field(default="", compare=False)


class PartialReply:
    """The chunks of a reply that have come so far.

    Args:
        model: the name in the request.
        prompt_characters: to estimate what the endpoint doesn't report.

    Attributes:
        extent: how much has come; it grows with each piece of the reply.
        is_done: the endpoint has said that nothing follows, by [DONE] or the end of its JSON.
        is_finished: the last chunk with anything of the reply said why it ends.
        is_finished_barely: and had nothing else. Some endpoints give a reason with each chunk.
    """

    def __init__(self, model: str, prompt_characters: int) -> None:
        self.extent = 0
        self.is_done = False
        self.is_finished = False
        self.is_finished_barely = False
        self._model = model
        self._prompt_characters = prompt_characters
        self._text = TextPieces()
        self._refusal = TextPieces()
        self._reasoning = TextPieces()
        self._tool_calls = ToolCalls()
        self._usage = UsageReports()
        self._finish_reason: str | None = None
        self._choice_index: int | None = None  # of the one choice that is read
        self._last_index = 0
        self._may_number_chunks = True
        self._came_by_deltas = False
        self._ends_with_usage = False
        self._remark = ""

    @property
    def has_started(self) -> bool:
        """Whether anything came that has to be paid for."""
        said = self._text or self._refusal or self._tool_calls or self._reasoning
        return bool(said or self._usage)

    @property
    def has_choice(self) -> bool:
        """Whether a choice has come, as each reply has one."""
        return self._choice_index is not None

    @property
    def is_whole(self) -> bool:
        """Whether the reply is whole, even if the connection breaks now."""
        has_end = self.is_done or self._finish_reason is not None or self._ends_with_usage
        return has_end and self.has_choice

    def add(self, data: object) -> str:
        """Add a chunk of a stream, or a whole completion; return the text in it to show.

        Raises:
            LLMError: it reports an error, or is not what the protocol says.
        """
        if data is None:
            return ""
        if isinstance(data, list):  # Gemini's endpoint wraps errors so
            return "".join(self.add(item) for item in data)
        if not isinstance(data, Mapping):
            raise LLMError("the model's endpoint sent something that is not a JSON object")
        _raise_error(reported_error(data))
        if isinstance(data.get("model"), str) and data["model"]:
            self._model = clean_text(data["model"])
        has_usage = self._usage.add(data.get("usage"))
        if not has_usage and isinstance(data.get("x_groq"), Mapping):
            has_usage = self._usage.add(data["x_groq"].get("usage"))
        choices = sorted(mappings(data.get("choices")), key=_choice_index)
        if not choices:
            self._ends_with_usage = has_usage and self._choice_index is not None
            self._remark = remark_of(data) or self._remark
        self._may_number_chunks = self._may_number_chunks and len(choices) < 2
        return "".join(self._add_choice(choice) for choice in choices if self._is_ours(choice))

    def _is_ours(self, choice: Mapping[str, Any]) -> bool:
        """Tell the one choice that is read from others, if the agent asked for several.

        Some servers have no others, and number the chunks here: then no number comes twice.
        """
        index = _choice_index(choice)
        if self._choice_index is None:
            self._choice_index = self._last_index = index
            return True
        self._may_number_chunks = self._may_number_chunks and index > self._last_index
        self._last_index = index
        return self._may_number_chunks or index == self._choice_index

    def _add_choice(self, choice: Mapping[str, Any]) -> str:
        self._usage.add(choice.get("usage"))  # Moonshot's place for it
        before = self.extent
        shown = self._add_texts(choice)
        reason = _word(choice.get("finish_reason"))
        error = reported_error(choice)
        if error is not None or (reason or "").lower() in FAILED:
            _raise_error(error or _failure(choice))
        has_more = self.extent != before
        if reason is not None:
            self._finish_reason = reason
            self.is_finished = True
            self.is_finished_barely = not has_more
        elif has_more:
            self.is_finished = self.is_finished_barely = False
        if has_more:
            self._ends_with_usage = False
        return shown

    def _add_texts(self, choice: Mapping[str, Any]) -> str:
        delta, message, text = (choice.get(name) for name in ("delta", "message", "text"))
        if isinstance(delta, Mapping):
            before = self.extent
            shown = self._add_message(delta)
            if self.extent != before:
                self._came_by_deltas = True
                return shown  # a message in the same choice repeats the delta
        if isinstance(message, Mapping):
            return self._add_message(self._rest_of(message) if self._came_by_deltas else message)
        return self._add_message({"content": text}) if isinstance(text, str) else ""

    def _rest_of(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a whole message has and the deltas before it have not brought."""
        parts = MessageTexts(message)
        rest: dict[str, Any] = {}
        for name, came, whole in (
            ("content", str(self._text), parts.text),
            ("refusal", str(self._refusal), parts.refusal),
            ("reasoning", str(self._reasoning), parts.reasoning),
        ):
            if whole.startswith(came):
                rest[name] = whole[len(came) :]
        if not self._tool_calls:
            rest |= {name: message.get(name) for name in ("tool_calls", "function_call")}
        return rest

    def _add_message(self, message: Mapping[str, Any]) -> str:
        _raise_error(reported_error({"error": message.get("error")}))
        parts = MessageTexts(message)
        calls, legacy = message.get("tool_calls"), message.get("function_call")
        self.extent += len(parts.text) + len(parts.refusal) + len(parts.reasoning)
        self.extent += self._tool_calls.add(calls) if calls else 0
        self.extent += self._tool_calls.add({"function": legacy}) if legacy else 0
        if self.extent > MAX_EXTENT:
            raise LLMError(f"the model's reply has more than {MAX_EXTENT:,} characters")
        self._reasoning.add(parts.reasoning)
        return self._text.add(parts.text) + self._refusal.add(parts.refusal)

    def end(self) -> str:
        """Return the text that is still to be shown, now that nothing follows."""
        self._reasoning.end()
        return self._text.end() + self._refusal.end()

    def check_whole(self) -> None:
        """Raise ``LLMError`` if the reply is not whole."""
        if self.is_whole:
            return
        what = "reply broke off"
        if self._choice_index is None:
            what = "endpoint answered without a choice"
        remark = f": {self._remark}" if self._remark else ""
        raise LLMError(f"the model's {what}{remark}", detail=self._remark)

    def finish(self) -> LLMReply:
        """Return the whole reply, or raise ``LLMError`` if it is not whole."""
        self.check_whole()
        return self._reply(whole=self._finish_reason not in _CUT)

    def so_far(self) -> LLMReply:
        """Return what has come; its usage is estimated unless the endpoint reported it."""
        return self._reply(whole=False)

    def _reply(self, *, whole: bool) -> LLMReply:
        tool_calls = self._tool_calls.result(whole=whole)
        refusal = str(self._refusal)
        finish_reason = self._finish_reason
        if refusal and finish_reason in (None, "stop"):
            finish_reason = "refusal"
        if tool_calls and finish_reason in (None, "stop", "function_call"):
            finish_reason = "tool_calls"
        said = sum(map(len, (self._text, self._refusal, self._reasoning)))
        said += self._tool_calls.characters
        return LLMReply(
            text=str(self._text) or refusal,
            tool_calls=tool_calls,
            usage=self._usage.settle(self._prompt_characters, said),
            model=self._model,
            finish_reason=None if finish_reason is None else clean_text(finish_reason),
            reasoning=str(self._reasoning),
        )


def characters_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Count the characters of messages, for an estimate: their texts and arguments of tools."""
    count = 0
    for message in messages:
        count += len(text_of(message.get("content")))
        for call in mappings(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, Mapping):
                count += len(str(function.get("arguments") or ""))
    return count


def _raise_error(error: object) -> None:
    if error is None:
        return
    detail = detail_of(error)
    said = f": {detail}" if detail else ""
    text = f"the model's endpoint reports an error{said}"
    raise LLMError(text, status=status_of(error), detail=detail)


def _failure(choice: Mapping[str, Any]) -> str:
    """Say how a choice failed that has no message about it."""
    reason = _word(choice.get("native_finish_reason")) or choice["finish_reason"]
    return f"it gave up the reply ({reason})"


def _choice_index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if type(index) is int else 0


def _word(value: object) -> str | None:
    """Return a word; some endpoints write "" or "null" for none."""
    word = value.strip() if isinstance(value, str) else ""
    return word if word and word.lower() not in ("null", "none") else None
