"""The messages between processes. The channel layer packs them, so they hold plain values only.

A process reads each message that it receives with ``read``. Nothing else may rely on its shape: it
may come from another release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's own only from Python 3.12, says pydantic

__all__ = [
    "FeedAsk",
    "FeedText",
    "FeedUpdates",
    "FeedWatch",
    "InvalidMessage",
    "Known",
    "Message",
    "Piece",
    "RunEnded",
    "RunStart",
    "RunStop",
    "RunWake",
    "read",
]

_HEX = "[0-9a-f]"
_Id = Annotated[
    str, Field(pattern=f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$")
]
_Count = Annotated[int, Field(ge=0)]

#: Run, agent, call, the position in its answer at which the text starts, and the text.
Piece = tuple[_Id, str, str, _Count, str]
#: Run -> call -> how many characters of its answer the asking process has.
Known = Mapping[_Id, Mapping[str, _Count]]


# To workers (consumers.AgentConsumer).


class RunStart(TypedDict):
    type: Literal["run.start"]
    run: _Id


class RunWake(TypedDict):
    type: Literal["run.wake"]


class RunStop(TypedDict):
    type: Literal["run.stop"]
    stops: list[dict[str, Any]]  # StopDelivery.as_message


class RunEnded(TypedDict):
    type: Literal["run.ended"]
    runs: list[_Id]


FeedWatch = TypedDict(
    "FeedWatch",
    {"type": Literal["feed.watch"], "from": str, "runs": dict[_Id, dict[str, _Count]]},
)

# To feeds (web.feed.inbox). ``from`` is the process that sends: it skips its own messages.

FeedUpdates = TypedDict(
    "FeedUpdates",
    {
        "type": Literal["feed.updates"],
        "from": str,
        "changed": list[tuple[_Id, _Id]],  # run and root: a new run, or a new status or receipt
        "logs": list[_Id],  # runs with new events
    },
)
FeedText = TypedDict("FeedText", {"type": Literal["feed.text"], "from": str, "pieces": list[Piece]})
FeedAsk = TypedDict("FeedAsk", {"type": Literal["feed.ask"], "from": str})

Message = RunStart | RunWake | RunStop | RunEnded | FeedWatch | FeedUpdates | FeedText | FeedAsk


class InvalidMessage(Exception):
    """A message that can't be understood. The text quotes nothing of it."""


def read(message: object) -> Message:
    """Return a message that was received, if it is one.

    Raises:
        InvalidMessage: it is of no type that there is, or has another shape.
    """
    try:
        return _MESSAGE.validate_python(message)
    except ValidationError as error:
        kind = error.errors(include_input=False, include_context=False, include_url=False)[0]["loc"]
        # The first part is the type, which the union has recognised, or nothing.
        raise InvalidMessage(f"of type {kind[0]}" if kind else "of no known type") from None


_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
