"""The bytes of an answer, read as the JSON values in it, whatever their label says.

An answer is an event stream or one JSON document. Gateways label a stream ``text/plain`` or
``application/json``, a document ``text/event-stream``, and answer 200 with a web page; so the bytes
decide. This module knows JSON and the syntax of events, and nothing of what the values mean.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Final

from agents.exceptions import LLMError

__all__ = ["DONE", "AnswerBody", "NotJSON"]

MAX_BYTES: Final = 16 * 1024 * 1024  # of one event, or of a JSON document

DONE: Final = object()
"""Stands for [DONE], which ends a stream."""

_BOM: Final = codecs.BOM_UTF8
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b"error")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_SPACE: Final = re.compile(r"\s*")
_HEARTBEATS: Final = frozenset({"ping", "heartbeat", "keep-alive", "keepalive"})

# Not strict: raw line breaks in texts are understood.
_decoder: Final = json.JSONDecoder(strict=False)


class NotJSON(ValueError):
    """An answer has something where JSON belongs."""


class AnswerBody:
    """Reads an answer piece by piece.

    Args:
        label: its media type, such as ``text/event-stream``; "" if it has none.
        status: for errors.

    Attributes:
        is_document: it is one JSON document; its value comes from ``close``.
    """

    def __init__(self, label: str, status: int = 200) -> None:
        self.is_document = False
        self._label = label
        self._status = status
        self._bytes = bytearray()  # of a document, or until it is known what this is
        self._events: _Events | None = None

    def feed(self, data: bytes) -> Iterator[object]:
        """Read some bytes; yield the values that are complete now, and ``DONE``.

        Raises:
            LLMError: this is no answer of a model, or too large.
            NotJSON: an event's data is not JSON.
        """
        if self._events is None:
            self._bytes += data
            if len(self._bytes) > MAX_BYTES:
                raise _too_large()
            self._events = self._decide()
            if self._events is None:
                return
            data = bytes(self._bytes)
            self._bytes.clear()
        yield from self._events.feed(data)

    def close(self) -> Iterator[object]:
        """Note that all bytes have come; yield the values that were still to come."""
        if self._events is not None:
            yield from self._events.close()
        elif self.is_document:
            yield from _document(bytes(self._bytes))
        elif not _BOM.startswith(bytes(self._bytes)):
            raise self._no_answer()

    def _decide(self) -> _Events | None:
        """Decide what this is, as soon as its first bytes say so; return a reader of events."""
        if self.is_document:
            return None
        start = bytes(self._bytes).removeprefix(_BOM).lstrip()[:64]
        if not start:
            self._bytes.clear()  # gateways keep a connection open with white space
        if _BOM.startswith(start):
            return None
        name, colon, _ = start.partition(b":")
        if start[:1] == b"<":
            raise self._no_answer()
        self.is_document = start[:1] in (b"{", b"[")
        if self.is_document:
            return None
        if self._label == "text/event-stream" or (colon and (not name or name in _FIELDS)):
            return _Events()
        if not colon and any(field.startswith(start) for field in _FIELDS):
            return None
        self.is_document = self._label.endswith("json")
        if self.is_document:
            return None
        raise self._no_answer()

    def _no_answer(self) -> LLMError:
        label = self._label or "something"
        return LLMError(
            f"the model's endpoint answered with {label} that is neither JSON nor an event stream;"
            " is its address right?",
            status=self._status,
        )


class _Events:
    """Reads server-sent events, and the ways in which servers deviate from them.

    These are events too: a line ``error: ...`` (llama.cpp until 2025), a line that is a JSON object
    without ``data:``, and a last event without an empty line after it.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line: list[str] = []  # the pieces of the line that has no end yet
        self._ends_with_cr = False
        self._name = ""
        self._data: list[str] = []
        self._size = 0  # of the event that has no end yet

    def feed(self, data: bytes, *, final: bool = False) -> Iterator[object]:
        text = self._decoder.decode(data, final)
        if self._ends_with_cr and text.startswith("\n"):
            text = text[1:]
            self._ends_with_cr = False
        if not text:
            return
        self._ends_with_cr = text.endswith("\r")
        self._size += len(data)
        if self._size > MAX_BYTES:
            raise _too_large()
        first, *others = _LINE_END.split(text)
        self._line.append(first)
        for next_line in others:
            line = "".join(self._line)
            self._line = [next_line]
            yield from self._read(line)

    def close(self) -> Iterator[object]:
        yield from self.feed(b"", final=True)
        line = "".join(self._line)
        self._line = []
        try:
            yield from self._read(line)
            yield from self._dispatch()
        except NotJSON:
            pass  # the event was cut

    def _read(self, line: str) -> Iterator[object]:
        if not line:
            yield from self._dispatch()
            return
        if line.startswith(":"):
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value.strip()
        elif name == "error":
            yield from self._dispatch()
            yield from _values("error", value)
        elif line.startswith("{"):
            yield from self._dispatch()
            yield from _values("", line)

    def _dispatch(self) -> Iterator[object]:
        name, data = self._name, "\n".join(self._data)
        self._name, self._data, self._size = "", [], 0
        yield from _values(name, data)


def _values(name: str, data: str) -> Iterator[object]:
    """Yield the values in an event's data; servers that forget an empty line make it several."""
    is_error = name == "error"
    if data.strip().lower() in _HEARTBEATS:
        return
    try:
        for value in _parse(data):
            yield _as_error(value) if is_error and value is not DONE else value
    except NotJSON:
        if is_error:
            yield _as_error(data.strip())
        elif name in ("", "message"):
            raise


def _as_error(value: object) -> object:
    return value if isinstance(value, dict) and value.get("error") else {"error": value or "error"}


def _parse(text: str) -> Iterator[object]:
    at = 0
    while True:
        at = _after_space(text, at)
        if at == len(text):
            return
        if text.startswith("[DONE]", at):
            yield DONE
            return
        try:
            value, at = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise NotJSON from error
        yield value


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _document(data: bytes) -> Iterator[object]:
    try:
        yield json.loads(data, strict=False)
        return
    except (ValueError, RecursionError) as error:
        problem = error
    # JSON with [DONE] after it, or one JSON object a line.
    events = _Events()
    try:
        values = [*events.feed(data), *events.close()]
    except NotJSON:
        values = []
    if not any(isinstance(value, dict) for value in values):
        raise NotJSON from problem
    yield from values


def _too_large() -> LLMError:
    return LLMError(f"the model's endpoint sent more than {MAX_BYTES // 1024**2} MiB in one piece")
