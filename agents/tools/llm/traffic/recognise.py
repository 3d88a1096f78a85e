"""Which requests are calls to a model: the path and the body decide, whatever the host.

Each request of a run passes here, so one that asks no model must cost next to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import anthropic, gemini, openai
from .asked import Asked

__all__ = ["asked_of", "may_ask", "recognise"]

MAX_BYTES: Final = 32 * 1024 * 1024  # of a request's body

_BY_ENDING: Final[dict[str, Callable[[str, Mapping[str, Any]], Asked | None]]] = {
    "/completions": openai.completions,
    "/responses": openai.responses,
    "/embeddings": openai.embeddings,
    "/messages": anthropic.messages,
    ":generateContent": gemini.generate,
    ":streamGenerateContent": gemini.generate,
    ":embedContent": gemini.embed,
    ":batchEmbedContents": gemini.embed,
}
_ENDINGS: Final = tuple(_BY_ENDING)
_RAW_ENDINGS: Final = tuple(ending.encode() for ending in _ENDINGS)


def recognise(request: Any) -> Asked | None:
    """Return what a request of httpx or httpx2 asks of a model; None if it asks none."""
    if request.method != "POST":
        return None
    path = request.url.raw_path.partition(b"?")[0]
    if not path.endswith(_RAW_ENDINGS):
        return None
    try:
        body = request.content
    except Exception:  # each library has its own: the body is sent piece by piece
        return None
    return asked_of("POST", path.decode("ascii", "replace"), body)


def may_ask(method: str, path: str) -> bool:
    """Tell whether a request with this path, without its query, may ask a model."""
    return method == "POST" and path.endswith(_ENDINGS)


def asked_of(method: str, path: str, body: object) -> Asked | None:
    """Return what a request with this path, without its query, asks of a model."""
    if not may_ask(method, path):
        return None
    if not isinstance(body, bytes | bytearray | str) or not 0 < len(body) <= MAX_BYTES:
        return None
    try:
        value = json.loads(body)
        if not isinstance(value, Mapping):
            return None
        read = next(read for ending, read in _BY_ENDING.items() if path.endswith(ending))
        return read(path, value)
    except (ValueError, RecursionError):
        return None
