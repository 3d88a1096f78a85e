"""The parts of the protocol's objects: the objects in a list, and the texts in a message.

A message's content is text, a part, or a list of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["MessageTexts", "mappings", "text_of"]

_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking", "reasoning_details")


class MessageTexts:
    """What a message or a delta says: its text, its refusal, its thoughts."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.text = self.refusal = self.reasoning = ""
        self._read(message.get("content"))
        refusal = message.get("refusal")
        self.refusal += refusal if isinstance(refusal, str) else ""
        thoughts = next((message[name] for name in _THOUGHTS if message.get(name)), None)
        self.reasoning += text_of(thoughts)

    def _read(self, content: object) -> None:
        if isinstance(content, str):
            self.text += content
        elif isinstance(content, list | tuple):
            for part in content:
                self._read(part)
        elif isinstance(content, Mapping):
            kind = content.get("type")
            if kind in ("thinking", "reasoning"):  # Mistral's parts
                self.reasoning += text_of(content.get(kind) or content.get("text"))
            elif kind == "refusal":
                self.refusal += text_of(content.get("refusal"))
            else:
                self.text += text_of(content)


def text_of(content: object) -> str:
    """Return the text of content, which is text, a part with text, or a list of those."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return next(
            (content[n] for n in ("text", "summary") if isinstance(content.get(n), str)), ""
        )
    return "".join(map(text_of, content)) if isinstance(content, list | tuple) else ""


def mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """Give the objects in a list; what is no object, or no list, counts as missing."""
    if isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Mapping):
                yield item
