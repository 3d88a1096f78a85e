"""Bodies unpacked within bounds, piece by piece, and off the event loop.

httpx unpacks each chunk as it comes, on the loop, through any number of encodings: a body of 1,715
bytes took 2 GB and 34 s. Here a body has one encoding, a piece is bounded, and all pieces together
are. The first piece of a chunk is made where it is read, which takes 0.1 ms. What remains then, if
a chunk grows a lot, is unpacked by two threads of the process, a megabyte at a time, so that all
bodies take turns.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import httpx2

from agents.exceptions import BodyRefused
from agents.process.own_threads import OwnThreads
from agents.values.encodings import codec_of

__all__ = [
    "ACCEPTED",
    "MAX_BODY_BYTES",
    "AsyncDecoded",
    "SyncDecoded",
    "is_event_stream",
    "limit_of",
    "prepare",
]

ACCEPTED = "gzip, deflate"
MAX_BODY_BYTES = 50_000_000  # unpacked

FIRST_PIECE_BYTES = 64 * 1024
PIECE_BYTES = 1024 * 1024
_UNPACKING = OwnThreads("agents-unpacking", 2, per_owner=2)

_GZIP = ("gzip", "x-gzip")
# Encodings that nothing here unpacks. Other words ("none", "utf-8") are mistakes of servers, and
# their bodies are as they are.
_FOREIGN = ("br", "zstd", "compress", "x-compress", "dcb", "dcz", "bzip2", "xz", "lzma", "exi")


def prepare(request: Any) -> None:
    """Ask for encodings that can be unpacked, whatever the client would ask for."""
    asked = request.headers.get("accept-encoding")
    if asked is not None and any(word in asked.lower() for word in ("gzip", *_FOREIGN, "*")):
        request.headers["accept-encoding"] = ACCEPTED


def limit_of(request: Any, default: int | None) -> int | None:
    """Return how many bytes the answer's body may have; an extension of the request decides."""
    limit = request.extensions.get("max_body_bytes", default)
    return limit if limit is None else int(limit)


class _Decoded:
    """A response's body, unpacked.

    Args:
        response: of httpx or httpx2. It loses the headers that describe the packed body.
        limit: the most bytes that come out, None for no limit.
    """

    def __init__(self, response: Any, limit: int | None) -> None:
        self._stream: Any = response.stream
        self._limit = limit
        self._count = 0
        headers = response.headers
        encodings = _encodings(headers)
        self._unpacker: _Unpacker | None = None
        self._problem = ""
        if len(encodings) > 1:
            self._problem = f"the body has {len(encodings)} encodings ({', '.join(encodings)})"
        elif encodings and encodings[0] in _FOREIGN:
            self._problem = (
                f"the body has the encoding {encodings[0]}, which the request did not ask for"
            )
        elif encodings:
            self._unpacker = _Unpacker(is_gzip=encodings[0] in _GZIP)
        if encodings:
            for name in ("content-encoding", "content-length"):
                headers.pop(name, None)
        elif is_event_stream(headers):
            self._limit = None  # no reader keeps all of it
        _name_encoding(response)

    def _first(self, chunk: bytes) -> bytes:
        if self._problem and chunk:
            raise BodyRefused(self._problem)
        if self._unpacker is None:
            return self._counted(chunk)
        return self._counted(self._unpacker.unpack(chunk, FIRST_PIECE_BYTES))

    def _has_more(self) -> bool:
        return self._unpacker is not None and self._unpacker.has_more

    def _more(self) -> bytes:
        assert self._unpacker is not None
        return self._unpacker.unpack(b"", PIECE_BYTES)

    def _counted(self, piece: bytes) -> bytes:
        self._count += len(piece)
        if self._limit is not None and self._count > self._limit:
            raise BodyRefused(f"the body has more than {self._limit:,} bytes")
        return piece


class AsyncDecoded(_Decoded, httpx.AsyncByteStream, httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            if piece := self._first(chunk):
                yield piece
            while self._has_more():
                if piece := self._counted(await _UNPACKING.run(self._more)):
                    yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class SyncDecoded(_Decoded, httpx.SyncByteStream, httpx2.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            if piece := self._first(chunk):
                yield piece
            while self._has_more():
                if piece := self._counted(self._more()):
                    yield piece

    def close(self) -> None:
        self._stream.close()


class _Unpacker:
    """Unpacks gzip, with any number of members, and deflate, with zlib's header or without."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._inflate: Any = None
        self._rest = b""  # not unpacked yet
        self._was_full = False  # zlib may hold output back although it has taken all input
        self._has_begun = False
        self._is_over = False

    @property
    def has_more(self) -> bool:
        return not self._is_over and (bool(self._rest) or self._was_full)

    def unpack(self, chunk: bytes, most: int) -> bytes:
        """Return at most ``most`` bytes of what was given so far; b"" says nothing about the end.

        Raises:
            BodyRefused: it is not packed as it says.
        """
        data = self._rest + chunk
        if self._inflate is None:
            self._begin(data)
        if self._is_over or self._inflate is None:
            return b""
        try:
            piece: bytes = self._inflate.decompress(data, most)
        except zlib.error as error:
            raise BodyRefused(f"the body can't be unpacked: {error}") from error
        self._rest = self._inflate.unconsumed_tail
        self._was_full = len(piece) == most
        if self._inflate.eof:
            self._rest, self._inflate = self._inflate.unused_data, None
            self._was_full, self._is_over = False, not self._is_gzip
        return piece

    def _begin(self, data: bytes) -> None:
        # What follows a member of gzip is another one, or garbage, which browsers ignore as well.
        self._is_over = self._is_over or (self._has_begun and data[:1] not in (b"", b"\x1f"))
        if data and not self._is_over:
            self._has_begun = True
            self._inflate = zlib.decompressobj(self._window(data))

    def _window(self, data: bytes) -> int:
        if self._is_gzip:
            return 16 + zlib.MAX_WBITS
        # RFC 9110 means zlib's format, some servers send the bare one. zlib's header is a multiple
        # of 31, RFC 1950; one byte alone can't tell, but its low half can.
        has_header = data[0] & 0x0F == 8 and int.from_bytes(data[:2].ljust(2, b"\x9c")) % 31 == 0
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


def _encodings(headers: Any) -> list[str]:
    words = headers.get_list("content-encoding", split_commas=True)
    known = (*_GZIP, "deflate", *_FOREIGN)
    return [word for word in (word.strip().lower() for word in words) if word in known]


def is_event_stream(headers: Any) -> bool:
    """Return whether a body is labelled as a stream of events, which may have no end."""
    return "text/event-stream" in headers.get("content-type", "").lower()


def _name_encoding(response: Any) -> None:
    """Let ``response.text`` decode as a browser does.

    httpx would take any codec of Python's that the sender names: "zip" unpacks without a bound, and
    "punycode" takes minutes.
    """
    label = response.charset_encoding
    if label is not None:
        response.encoding = codec_of(label) or "utf-8"
