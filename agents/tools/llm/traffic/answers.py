"""The answers of models, read while their bytes pass to the SDK that has asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

from agents.exceptions import LLMError

from ..body import DONE, AnswerBody, NotJSON
from ..reply import LLMReply, PartialReply
from ..usage import UsageReports
from .asked import Asked, Translate

__all__ = ["Answer", "answer_to"]

END_BYTES: Final = 8 * 1024  # of each end of a document of embeddings

_FIELD: Final = re.compile(r'"(usage|usageMetadata|model)"\s*:\s*')
_decoder: Final = json.JSONDecoder()


class Answer(Protocol):
    """An answer so far.

    Attributes:
        error: what the endpoint reports in the answer.
    """

    error: LLMError | None

    @property
    def has_started(self) -> bool:
        """Whether anything came that has to be paid for."""

    @property
    def is_understood(self) -> bool:
        """Whether it is a reply of a model, or an error of one."""

    def feed(self, data: bytes) -> str:
        """Read some bytes; return the text in them."""

    def close(self) -> str:
        """Note that all bytes have come; return the text that was still to come."""

    def reply(self) -> LLMReply:
        """Return what has come; its usage is estimated unless it is whole and reports one."""


def answer_to(asked: Asked, label: str) -> Answer:
    """Return a reader for the answer with the media type ``label``."""
    if asked.translate is None:
        return _Embeddings(asked)
    return _Reply(asked, asked.translate, label)


class _Reply:
    """A reply, as chat completions have it. What can't be read ends the reading."""

    def __init__(self, asked: Asked, translate: Translate, label: str) -> None:
        self.error: LLMError | None = None
        self._partial = PartialReply(asked.model, asked.prompt_characters)
        self._translate = translate
        self._body: AnswerBody | None = AnswerBody(label)

    @property
    def has_started(self) -> bool:
        return self._partial.has_started

    @property
    def is_understood(self) -> bool:
        return self.has_started or self._partial.has_choice or self.error is not None

    def feed(self, data: bytes) -> str:
        return "" if self._body is None else self._take(self._body.feed(data))

    def close(self) -> str:
        if self._body is None:
            return ""
        text = self._take(self._body.close())
        return text + self._partial.end()

    def _take(self, values: Iterable[object]) -> str:
        text = ""
        try:
            for value in values:
                if value is DONE:
                    self._partial.is_done = True
                    self._body = None
                    return text + self._partial.end()
                for chunk in self._translate(value):
                    text += self._add(chunk)
        except (LLMError, NotJSON, RecursionError):
            self._body = None
        return text

    def _add(self, chunk: object) -> str:
        try:
            return self._partial.add(chunk)
        except LLMError as error:
            self.error = error
            raise

    def reply(self) -> LLMReply:
        if self._partial.is_whole and self.error is None:
            return self._partial.finish()
        reply = self._partial.so_far()
        return replace(reply, usage=replace(reply.usage, estimated=True))


class _Embeddings:
    """A document of embeddings, of which only both ends are kept: there its usage is."""

    error: LLMError | None = None

    def __init__(self, asked: Asked) -> None:
        self._is_whole = False
        self._asked = asked
        self._start = bytearray()
        self._end = bytearray()

    @property
    def has_started(self) -> bool:
        return self.is_understood

    @property
    def is_understood(self) -> bool:
        return self._start.lstrip()[:1] == b"{"

    def feed(self, data: bytes) -> str:
        self._start += data[: END_BYTES - len(self._start)]
        self._end += data[-END_BYTES:]
        del self._end[:-END_BYTES]
        return ""

    def close(self) -> str:
        self._is_whole = True
        return ""

    def reply(self) -> LLMReply:
        model, reports = self._asked.model, UsageReports()
        for part in (self._start, self._end):
            for name, value in _fields(part.decode("utf-8", "replace")):
                if name == "model" and isinstance(value, str):
                    model = value
                elif isinstance(value, dict):
                    given = value.get("prompt_tokens", value.get("promptTokenCount"))
                    reports.add({"input_tokens": given, "output_tokens": 0})
        usage = reports.settle(self._asked.prompt_characters, 0)
        usage = replace(usage, estimated=usage.estimated or not self._is_whole)
        return LLMReply("", [], usage, model, None)


def _fields(text: str) -> list[tuple[str, Any]]:
    found = []
    for match in _FIELD.finditer(text):
        try:
            value, _ = _decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            continue
        found.append((match[1], value))
    return found
