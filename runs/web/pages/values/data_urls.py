"""Files inside JSON: ``data:application/pdf;base64,...``, as forms send them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from agents.values.jsonable import child_path

__all__ = ["DataFile", "files_in", "read_data_url"]

#: Type -> what people call it, and how such a file's name ends. Only these are sent as what they
#: say they are: a page that a user made must never come from our own host as a page.
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
    """A file that is written into a text."""

    media_type: str
    name: str  # as its sender called it; empty if it has none
    _text: str
    _start: int
    _is_base64: bool

    @property
    def kind(self) -> str:
        """What people call such a file."""
        return _KINDS[self.media_type][0] if self.media_type in _KINDS else self.media_type

    @property
    def extension(self) -> str:
        return _KINDS[self.media_type][1] if self.media_type in _KINDS else "bin"

    @property
    def safe_type(self) -> str:
        """The type to send it as."""
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
            ValueError: it is not the base64 that it says it is.
        """
        text = self._text[self._start :]
        if not self._is_base64:
            return unquote_to_bytes(text)
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError("the file is not valid base64") from error


def read_data_url(text: str) -> DataFile | None:
    """Return the file that ``text`` is, None if it is something else."""
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
