"""What a follower gets, and how that looks over WebSocket and as server-sent events.

Data is encoded once for all followers of this process; here it is only put together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

__all__ = [
    "HEARTBEAT",
    "Batch",
    "Frame",
    "FrameType",
    "View",
    "as_page_message",
    "as_server_sent",
    "as_socket_messages",
    "to_json",
]

FrameType = Literal["trace", "run", "activity", "text", "end", "reset"]

HEARTBEAT = '{"type":"heartbeat"}'


@dataclass(frozen=True, slots=True)
class View:
    """What a reader wants to see beside the contract.

    ``is_page``: for our own screen: runs come without their input and with ``words``, and frames in
    batches. ``zone`` is the reader's time zone, for the words.
    """

    is_page: bool = False
    zone: str = ""


class Frame(NamedTuple):
    """One message of a feed. A tuple: each reader has its own, so making one must cost little.

    ``data`` is JSON: the event, the run, or an object with the other frame's fields. ``cursor`` is
    the position behind this frame; only events move it. Of one run it is the event's own number, so
    a socket only names it for a tree.
    """

    type: FrameType
    data: str
    words: str = ""  # JSON, for a page
    cursor: str = ""
    is_of_tree: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames that are to be sent now; none is a heartbeat. ``cursor`` is the one behind all."""

    frames: Sequence[Frame]
    cursor: str = ""


def to_json(value: Any) -> str:
    """Encode in ASCII: no sign in it can end a line, or can't be sent."""
    return json.dumps(value, separators=(",", ":"))


def as_socket_messages(batch: Batch) -> list[str]:
    """Return the text messages of a batch, one for each frame; none for a heartbeat.

    The protocol's own pings are the heartbeat of a plain socket.
    """
    return [_message(frame) for frame in batch.frames]


def as_page_message(batch: Batch) -> str:
    """Return a whole batch as one text message."""
    if not batch.frames:
        return HEARTBEAT
    frames = ",".join(_message(frame) for frame in batch.frames)
    return f'{{"type":"frames","cursor":{json.dumps(batch.cursor)},"frames":[{frames}]}}'


def as_server_sent(batch: Batch) -> bytes:
    """Return a batch as server-sent events; a comment, if there is nothing to tell."""
    if not batch.frames:
        return b":\n\n"
    return "".join(_server_sent(frame) for frame in batch.frames).encode()


def _message(frame: Frame) -> str:
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
