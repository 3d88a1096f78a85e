"""A run's log as server-sent events (WHATWG HTML, section 9.2), resumed by the feed's cursor."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from runs.db.lending import release_connection
from runs.identity import tokens
from runs.web import feed
from runs.web.feed import (
    Cursor,
    Follower,
    Frame,
    InvalidCursor,
    Place,
    RightLost,
    View,
    Viewer,
    rights,
)
from runs.web.feed.follower import STUCK_SECONDS
from runs.web.feed.frames import as_server_sent
from runs.web.rendering import JsonRenderer

from .errors import InvalidFilter
from .requests import parameters

__all__ = [
    "PARAMETERS",
    "RESPONSE",
    "ServerSentEventRenderer",
    "is_wanted",
    "proof_of",
    "refuse_in_json",
    "respond",
]

MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # else nginx buffers it

#: Reconnect after a second. Browsers wait for three: readers would notice each deploy.
_OPENING = b"retry: 1000\n\n"

_PIECE_BYTES = 64 * 1024  # a client has STUCK_SECONDS for each

PARAMETERS = [
    OpenApiParameter(
        "tree",
        {"type": "integer", "enum": [0, 1], "default": 0},
        description="Of a stream: 1 adds all runs below this one.",
    ),
    OpenApiParameter(
        "cursor", str, description="Of a stream: the `id` of a tree's event, after which to start."
    ),
    OpenApiParameter(
        "Last-Event-ID",
        str,
        OpenApiParameter.HEADER,
        description="Of a stream: where an earlier one broke off. Goes before `after`.",
    ),
]

RESPONSE = OpenApiResponse(
    str,
    "Frames: `trace` (an event, with its `id`), `run` (the run, whenever its status or receipt"
    " changes), `activity` (what is in flight), `text` (a model's answer as it comes), and `end`"
    " (the final run), with which it closes. Comments are heartbeats.",
    [
        OpenApiExample(
            "A stream",
            'event: activity\ndata: {"in_flight": []}\n\n',
            media_type=MEDIA_TYPE,
        )
    ],
)


class ServerSentEventRenderer(BaseRenderer):
    """Takes part in the content negotiation; ``respond`` writes the stream."""

    media_type = MEDIA_TYPE
    format = "event-stream"
    charset = "utf-8"

    def render(self, data: Any, *args: Any) -> bytes:
        raise NotImplementedError("a stream is not rendered in one piece")


def is_wanted(request: Request) -> bool:
    """Tell whether the client prefers a stream."""
    return isinstance(getattr(request, "accepted_renderer", None), ServerSentEventRenderer)


def refuse_in_json(request: Request) -> None:
    """Send an error as JSON also to a client that asked for a stream."""
    if is_wanted(request):
        request.accepted_renderer = JsonRenderer()
        request.accepted_media_type = JsonRenderer.media_type


def respond(request: Request, run: uuid.UUID) -> HttpResponseBase:
    """Answer with a stream that ends after the run's last event.

    Raises:
        Http404, InvalidFilter: see the view.
    """
    parameters.refuse_unknown(request, {"after", "cursor", "tree"})
    is_tree = parameters.switch(request, "tree")
    cursor = _cursor(request, run)
    viewer = _viewer(request, run)
    if request.method == "HEAD":
        return HttpResponse(content_type=MEDIA_TYPE, headers=_HEADERS)
    place = Place("feeds", viewer.user_id)
    release_connection()  # else the stream would hold it to its end
    return _EventStream(
        _stream(viewer, cursor, is_tree, place), content_type=MEDIA_TYPE, headers=_HEADERS
    )


class _EventStream(StreamingHttpResponse):
    """A stream of the event loop, which a client without a loop can read, too.

    Django's own ``__iter__`` would collect the whole stream first, and warn.
    """

    has_own_patience = True  # the handler need not watch whether the client reads

    def __iter__(self) -> Iterator[bytes]:
        with asyncio.Runner() as runner:
            stream = aiter(self.streaming_content)  # type: ignore[arg-type]
            try:
                while (piece := runner.run(anext(stream, None))) is not None:
                    yield piece
            finally:
                runner.run(feed.close_hub())

    def getvalue(self) -> bytes:
        return b"".join(self)


async def _stream(
    viewer: Viewer, cursor: Cursor, is_tree: bool, place: Place
) -> AsyncGenerator[bytes, None]:
    yield _OPENING
    hub = feed.get_hub()
    follower = Follower(hub, viewer, cursor, is_tree=is_tree, view=View(), place=place)
    try:
        async with aclosing(follower.batches()) as batches:
            async for frames in batches:
                for piece in as_server_sent(frames):
                    for start in range(0, len(piece), _PIECE_BYTES):
                        with _unless_stuck(follower, batches):
                            yield piece[start : start + _PIECE_BYTES]
    except RightLost as lost:
        yield f": {lost.why}: {lost.detail}\n\n".encode()  # a client that comes back is told, too


@contextmanager
def _unless_stuck(follower: Follower, batches: AsyncGenerator[list[Frame], None]) -> Iterator[None]:
    """Cancel the task that is sending if it does not come back for the next piece.

    The hub may also interrupt it, to make room for others. Django then closes only its own wrapper
    around the stream, and would leave the stream in it to the garbage collector. So close the
    follower's batches here.
    """
    task = asyncio.current_task()
    assert task is not None
    loop = task.get_loop()

    def close(_: object) -> None:
        closing = loop.create_task(batches.aclose())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)

    def let_go() -> None:
        task.add_done_callback(close)
        task.cancel()

    timer = loop.call_later(STUCK_SECONDS, let_go)
    follower.interrupt = let_go
    try:
        yield
    finally:
        follower.interrupt = None
        timer.cancel()


_closing: set[asyncio.Task[None]] = set()  # the loop alone keeps no task alive


def _cursor(request: Request, run: uuid.UUID) -> Cursor:
    given = {
        "Last-Event-ID": request.headers.get("Last-Event-ID", ""),
        "cursor": request.query_params.get("cursor", ""),
        "after": request.query_params.get("after", ""),
    }
    name, text = next(((name, text) for name, text in given.items() if text), ("after", "0"))
    try:
        return Cursor.read(text, run)
    except InvalidCursor as error:
        raise InvalidFilter({name: [f"{str(error).capitalize()}."]}) from error


def _viewer(request: Request, run: uuid.UUID) -> Viewer:
    """Return the reader, identified by the token or the session of this request."""
    user = request.user
    assert user.is_authenticated, "the permissions let in no other"
    try:
        return rights.let_in(run, user=user, **proof_of(request))
    except RightLost as error:
        raise Http404 from error


def proof_of(request: Request) -> dict[str, Any]:
    """Return by what a request is identified, for the feed, which checks it again and again."""
    if isinstance(request.auth, tokens.Found):
        return {"token": request.auth.key}
    return {"session_key": request.session.session_key or ""}
