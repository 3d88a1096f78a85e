"""The frames of a feed, and their form over WebSocket and as server-sent events.

Readers share the data of a frame, and each form that it takes on a wire: a run with an input of
megabytes is encoded once, however many readers have not read it yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

from agents.wire import CallOnWire

__all__ = [
    "HEARTBEAT",
    "LARGE_CHARACTERS",
    "Activity",
    "Frame",
    "FrameType",
    "Shared",
    "Text",
    "View",
    "as_page_message",
    "as_server_sent",
    "as_socket_message",
    "to_json",
]

T = TypeVar("T")

FrameType = Literal["trace", "run", "activity", "text", "end", "reset"]

HEARTBEAT = '{"type":"heartbeat"}'

#: Frames above this are never copied for a reader.
LARGE_CHARACTERS = 64 * 1024


class Shared(str):
    """JSON that many readers get. The first that needs it in a form of some wire makes that form.

    ``__dict__`` has the forms, by wire and type of frame.
    """


@dataclass(frozen=True, slots=True)
class View:
    """Options for our own page.

    ``is_page``: runs come with ``words``, without their input and without a result that is large,
    and frames in batches. ``zone`` is the reader's time zone, for the words.
    """

    is_page: bool = False
    zone: str = ""


class Activity(TypedDict):
    """The data of an ``activity`` frame."""

    run: str
    in_flight: list[CallOnWire]
    usage: Mapping[str, Any]
    usage_tree: Mapping[str, Any]


class Text(TypedDict):
    """The data of a ``text`` frame."""

    run: str
    agent: str
    call: str
    text: str


class Frame(NamedTuple):
    """One message of a feed. A tuple: each reader has its own, so making one must cost little.

    ``data`` is JSON: the event, the run, ``Activity`` or ``Text``; ``Shared`` if others get the
    same. ``cursor`` is the position after this frame; only events move it. Of one run it is the
    event's number, so a socket names it for a tree only.
    """

    type: FrameType
    data: str
    words: str = ""  # JSON, for a page
    cursor: str = ""
    is_of_tree: bool = False


def to_json(value: Any) -> str:
    """Encode in ASCII: no character can end a line, and all can be sent."""
    return json.dumps(value, separators=(",", ":"))


def as_page_message(frames: Sequence[Frame], cursor: str) -> str:
    """Return all frames as one text message; ``cursor`` is the position after them."""
    if not frames:
        return HEARTBEAT
    messages = ",".join(as_socket_message(frame) for frame in frames)
    return f'{{"type":"frames","cursor":{json.dumps(cursor)},"frames":[{messages}]}}'


def as_server_sent(frames: Sequence[Frame]) -> Iterator[bytes]:
    """Yield frames as server-sent events: small ones together, large ones as readers share them.

    A comment stands for a heartbeat.
    """
    small: list[bytes] = []
    for frame in frames:
        if len(frame.data) <= LARGE_CHARACTERS:
            small.append(_server_sent(frame))
            continue
        if small:
            yield b"".join(small)
            small = []
        yield _server_sent(frame)
    if small or not frames:
        yield b"".join(small) or b":\n\n"


def as_socket_message(frame: Frame) -> str:
    """Return a frame as a text message."""
    if frame.words or (frame.is_of_tree and frame.cursor):
        return _socket_message(frame)
    return _shared(frame, "socket", _socket_message)


def _socket_message(frame: Frame) -> str:
    match frame.type:
        case "trace":
            cursor = f',"cursor":"{frame.cursor}"' if frame.is_of_tree and frame.cursor else ""
            return f'{{"type":"trace","event":{frame.data}{cursor}}}'
        case "run" | "end":
            words = f',"words":{frame.words}' if frame.words else ""
            return f'{{"type":"{frame.type}","run":{frame.data}{words}}}'
        case "reset":
            return '{"type":"reset"}'
        case _:
            words = f',"words":{frame.words}' if frame.words else ""
            return f'{{"type":"{frame.type}",{frame.data[1:-1]}{words}}}'


def _server_sent(frame: Frame) -> bytes:
    return (
        _server_sent_event(frame)
        if frame.is_of_tree
        else _shared(frame, "event", _server_sent_event)
    )


def _shared(frame: Frame, wire: str, make: Callable[[Frame], T]) -> T:
    """Return a form of a frame, the one that other readers have got if its data is shared."""
    if not isinstance(frame.data, Shared):
        return make(frame)
    forms, key = frame.data.__dict__, f"{wire} {frame.type}"
    form: T | None = forms.get(key)
    if form is None:
        form = forms[key] = make(frame)
    return form


def _server_sent_event(frame: Frame) -> bytes:
    id = f"id: {frame.cursor}\n" if frame.cursor else ""
    # The data is ASCII, and may be large: it is copied once.
    head = f"event: {frame.type}\n{id}data: ".encode()
    return b"".join((head, frame.data.encode(), b"\n\n"))
