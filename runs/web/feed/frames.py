"""The frames of a feed, and their form over WebSocket and as server-sent events.

The data is encoded once for all readers of this process; here it is only put together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

from agents.wire import CallOnWire

__all__ = [
    "HEARTBEAT",
    "Activity",
    "Frame",
    "FrameType",
    "Text",
    "View",
    "as_page_message",
    "as_server_sent",
    "as_socket_message",
    "to_json",
]

FrameType = Literal["trace", "run", "activity", "text", "end", "reset"]

HEARTBEAT = '{"type":"heartbeat"}'


@dataclass(frozen=True, slots=True)
class View:
    """Options for our own page.

    ``is_page``: runs come without their input and with ``words``, and frames in batches. ``zone``
    is the reader's time zone, for the words.
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

    ``data`` is JSON: the event, the run, ``Activity`` or ``Text``. ``cursor`` is the position after
    this frame; only events move it. Of one run it is the event's number, so a socket names it for a
    tree only.
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


def as_server_sent(frames: Sequence[Frame]) -> bytes:
    """Return frames as server-sent events; a comment for a heartbeat."""
    if not frames:
        return b":\n\n"
    return "".join(_server_sent(frame) for frame in frames).encode()


def as_socket_message(frame: Frame) -> str:
    """Return a frame as a text message."""
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


def _server_sent(frame: Frame) -> str:
    id = f"id: {frame.cursor}\n" if frame.cursor else ""
    return f"event: {frame.type}\n{id}data: {frame.data}\n\n"
