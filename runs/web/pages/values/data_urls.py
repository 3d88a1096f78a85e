"""Files inside JSON: ``data:application/pdf;base64,...``, as forms send them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from agents.values.jsonable import child_path

__all__ = ["DataFile", "files_in", "read_data_url"]

#: Type -> its name for people, and the extension. Only these are sent with their own type: a page
#: that a user made must never come from this host as a page.
_KINDS = {
    "application/pdf": ("PDF", "pdf"),
    "application/json": ("JSON", "json"),
    "text/plain": ("Text", "txt"),
    "text/markdown": ("Markdown", "md"),
    "text/csv": ("CSV", "csv"),
    "image/png": ("PNG image", "png"),
    "image/jpeg": ("JPEG image", "jpg"),
    "image/gif": ("GIF image", "gif"),
    "image/webp": ("WebP image", "webp"),
}
_HEAD = re.compile(
    r"data:(?P<type>[\w.+-]{1,100}/[\w.+-]{1,100})?(?P<parameters>(?:;[\w.+-]{1,50}=[^;,]{0,500}){0,5})"
    r"(?P<base64>;base64)?,",
    re.IGNORECASE,
)
_NAME = re.compile(r";(?:file)?name=([^;,]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file inside a text."""

    media_type: str
    name: str  # the sender's; empty if there is none
    _text: str
    _start: int
    _is_base64: bool

    @property
    def kind(self) -> str:
        """The name of its type for people."""
        return _KINDS.get(self.media_type, (self.media_type, ""))[0]

    @property
    def extension(self) -> str:
        return _KINDS.get(self.media_type, ("", "bin"))[1]

    @property
    def safe_type(self) -> str:
        """The type to send it with."""
        return self.media_type if self.media_type in _KINDS else "application/octet-stream"

    @property
    def size_bytes(self) -> int:
        """Its size, without decoding it."""
        length = len(self._text) - self._start
        if not self._is_base64:
            return length - 2 * self._text.count("%", self._start)
        return length * 3 // 4 - self._text[-2:].count("=")

    def content(self) -> bytes:
        """Decode it.

        Raises:
            ValueError: it is declared as base64, and is not.
        """
        text = self._text[self._start :]
        return base64.b64decode(text, validate=True) if self._is_base64 else unquote_to_bytes(text)


def read_data_url(text: str) -> DataFile | None:
    """Return the file that a ``data:`` URL holds, None for any other text."""
    head = _HEAD.match(text)
    if head is None:
        return None
    name = _NAME.search(head["parameters"])
    return DataFile(
        (head["type"] or "text/plain").lower(),
        unquote(name[1]) if name else "",
        text,
        head.end(),
        head["base64"] is not None,
    )


def files_in(value: Any, path: str = "input") -> Iterator[tuple[str, DataFile]]:
    """Find the files in a JSON value, each with its path (``input.documents.0``)."""
    if isinstance(value, str):
        if file := read_data_url(value):
            yield path, file
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from files_in(item, child_path(path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from files_in(item, child_path(path, index))
