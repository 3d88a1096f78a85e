"""The messages between processes. The channel layer packs them, so they hold plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

__all__ = [
    "FeedAsk",
    "FeedText",
    "FeedUpdates",
    "FeedWatch",
    "Known",
    "Message",
    "Piece",
    "RunEnded",
    "RunStart",
    "RunStop",
    "RunWake",
]

#: Run, agent, call, the position in its answer at which the text starts, and the text.
Piece = tuple[str, str, str, int, str]
#: Run -> call -> how many characters of its answer the asking process has.
Known = Mapping[str, Mapping[str, int]]


# To workers (consumers.AgentConsumer).


class RunStart(TypedDict):
    type: Literal["run.start"]
    run: str


class RunWake(TypedDict):
    type: Literal["run.wake"]


class RunStop(TypedDict):
    type: Literal["run.stop"]
    stops: list[dict[str, Any]]  # StopDelivery.as_message


class RunEnded(TypedDict):
    type: Literal["run.ended"]
    runs: list[str]


FeedWatch = TypedDict(
    "FeedWatch", {"type": Literal["feed.watch"], "from": str, "runs": dict[str, dict[str, int]]}
)

# To feeds (web.feed.inbox). ``from`` is the process that sends: it skips its own messages.

FeedUpdates = TypedDict(
    "FeedUpdates",
    {
        "type": Literal["feed.updates"],
        "from": str,
        "changed": list[tuple[str, str]],  # run and root: a new run, or a new status or receipt
        "logs": list[str],  # runs with new events
    },
)
FeedText = TypedDict("FeedText", {"type": Literal["feed.text"], "from": str, "pieces": list[Piece]})
FeedAsk = TypedDict("FeedAsk", {"type": Literal["feed.ask"], "from": str})

Message = RunStart | RunWake | RunStop | RunEnded | FeedWatch | FeedUpdates | FeedText | FeedAsk
