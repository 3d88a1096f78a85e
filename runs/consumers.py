"""Channels consumers: ``AgentConsumer`` executes agents, two others send runs to browsers.

A worker also polls the database twice a second, so a lost message costs half a second. A broken
layer is retried with growing pauses and never ends the worker.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from runs.delivery import feeds, messages, notify, relay
from runs.delivery.messages import (
    FeedAsk,
    FeedWatch,
    InvalidMessage,
    Message,
    RunEnded,
    RunStart,
    RunStop,
    RunWake,
)
from runs.delivery.notify import WORKERS_GROUP, worker_group
from runs.delivery.stop_message import StopDelivery
from runs.web import sockets
from runs.web.feed import Follower, ListFollower, Reader, RightLost, get_hub
from runs.web.feed.follower import STUCK_SECONDS
from runs.web.feed.frames import as_page_message, as_socket_message
from runs.web.feed.rights import Why

from .process.tasks import cancel_and_wait

if TYPE_CHECKING:
    from runs.worker.worker import Worker

__all__ = ["AGENTS_CHANNEL", "AgentConsumer", "RunConsumer", "RunListConsumer", "listen"]

logger = logging.getLogger(__name__)

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)


class AgentConsumer(AsyncConsumer):
    """Executes agents. Channels routes the messages of a worker's channel here (project/asgi.py).

    ``scope["worker"]`` is the worker of this process. It executes an agent as a task of the agents'
    loop, in a context whose ContextVar has the run's cancel token (``agents.cancellation``).
    """

    #: ``listen`` receives instead: its channel outlives a broken layer.
    channel_layer_alias = "not used"

    def __init__(self) -> None:
        super().__init__()
        self._executions: set[asyncio.Task[None]] = set()

    async def run_start(self, message: RunStart) -> None:
        """Claim a queued run in its turn, and await its execution.

        If this worker is full by now, it wakes all others.
        """
        worker = self.scope["worker"]
        ended = await worker.execute(uuid.UUID(message["run"]))
        if ended is None and not worker.has_capacity:
            await asyncio.to_thread(notify.wake_workers)

    async def run_wake(self, message: RunWake) -> None:
        """Poll the queue now."""
        self.scope["worker"].wake()

    async def run_stop(self, message: RunStop) -> None:
        """Trip the tokens of runs."""
        stops = [StopDelivery.from_message(stop) for stop in message["stops"]]
        self.scope["worker"].receive_stops(stops)

    async def run_ended(self, message: RunEnded) -> None:
        """Poll runs that may be over."""
        self.scope["worker"].poll_started(uuid.UUID(run) for run in message["runs"])

    async def feed_watch(self, message: FeedWatch) -> None:
        """Send streamed text to a process that has readers."""
        feeds.sender.request(message["runs"])

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Handle executions concurrently, and other messages at once.

        Channels would await one execution before it takes the next message. Before each message it
        would also close old connections in the thread that all async code of Django shares; no
        handler here uses a connection.
        """
        try:
            known = messages.read(message)
        except InvalidMessage as why:  # a message of another release, say; polling replaces it
            logger.warning("a message %s can't be understood", why)
            return
        if known["type"] == "run.start":
            execution = asyncio.create_task(self._handle(known))
            self._executions.add(execution)
            execution.add_done_callback(self._executions.discard)
        else:
            await self._handle(known)

    async def _handle(self, message: Message) -> None:
        type = message["type"]
        handle = getattr(self, type.replace(".", "_"), None)
        if handle is None:
            return  # for feeds
        try:
            await handle(message)
        except Exception as error:  # not its text, which may quote the message
            name = error.__class__.__name__
            logger.warning("a message of type %s can't be understood (%s)", type, name)


#: The name under which ``ChannelNameRouter`` finds ``AgentConsumer``.
AGENTS_CHANNEL = "agents"


async def listen(application: Application, worker: Worker) -> None:
    """Have ``application`` handle this worker's messages until cancelled."""
    layer = get_channel_layer()
    if layer is None:
        return
    channel: str | None = None
    failures = 0
    scope = {"type": "channel", "channel": AGENTS_CHANNEL, "worker": worker}
    while True:
        joining: asyncio.Task[None] | None = None
        try:
            # Reuse the channel: the layer would fill an old one that no task reads.
            channel = channel or await layer.new_channel()
            await layer.group_add(WORKERS_GROUP, channel)
            failures = 0
            if relay.is_shared(layer):
                # This worker has missed the requests for text that were sent before.
                ask: FeedAsk = {"type": "feed.ask", "from": relay.PROCESS}
                relay.outbox.send(relay.FEED_GROUP, ask, is_repeated=True)
            joining = asyncio.create_task(_join_own_group(layer, channel, worker))
            await application(scope, partial(layer.receive, channel), _send_nothing)
        except Exception as error:  # of any kind: each layer raises its own
            pause = PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
            failures += 1
            logger.warning("the channel layer does not answer (%s); again in %g s", error, pause)
            await asyncio.sleep(pause)
        finally:
            if joining is not None:
                await cancel_and_wait((joining,))


async def _join_own_group(layer: Any, channel: str, worker: Worker) -> None:
    """Join the worker's group, again when it has a new id after it was declared lost."""
    joined = None
    while True:
        try:
            if worker.id != joined:
                await layer.group_add(worker_group(worker.id), channel)
                joined = worker.id
                worker.wake()
                worker.poll()  # for stops that were sent before
        except Exception as error:
            logger.warning("could not join the worker's group (%s), trying again", error)
        await asyncio.sleep(PAUSES_SECONDS[0])


async def _send_nothing(message: dict[str, Any]) -> None:
    """Nothing is sent back to a channel."""


# Close codes: 1000 and 1012 are RFC 6455's, from 4000 on they are the application's own.
OVER = 1000
FAILED = 1011
RESTARTING = 1012
RIGHT_LOST = 4403
GONE = 4404
UNREAD = 4408
TOO_MANY = 4429
_CODES: dict[Why, int] = {
    "restart": RESTARTING,
    "gone": GONE,
    "too_many": TOO_MANY,
    "unread": UNREAD,
}
_MOST_REASON_CHARACTERS = 120  # RFC 6455: a close frame has 125 bytes
_MIB = 1024 * 1024


class _FeedConsumer(AsyncConsumer):
    """Sends a reader's batches over one socket."""

    #: The hub receives the messages of the layer, once for all its readers.
    channel_layer_alias = "not used"

    _sending: asyncio.Task[None] | None = None

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        try:
            reader = await self.open()
        except sockets.Refused as why:
            await sockets.refuse(self.scope, self.send, why)
            raise StopConsumer from None
        await self.send({"type": "websocket.accept"})
        self._sending = asyncio.create_task(self._send_all(reader))

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """Ignore what a client sends."""

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        if self._sending is not None:
            await cancel_and_wait([self._sending])
        raise StopConsumer

    async def open(self) -> Reader:
        """Return the reader, to be overridden.

        Raises:
            sockets.Refused: the user is not let in.
        """
        raise NotImplementedError

    async def _send_all(self, reader: Reader) -> None:
        code, reason = OVER, ""
        try:
            async with aclosing(reader.batches()) as batches:
                async for frames in batches:
                    if reader.view.is_page:
                        messages = [as_page_message(frames, reader.cursor)]
                    else:  # the protocol's pings are the heartbeat
                        messages = [as_socket_message(frame) for frame in frames]
                    # For all of them: a timer for each would take a quarter of the time.
                    patience = STUCK_SECONDS * (1 + sum(map(len, messages)) // _MIB)
                    async with asyncio.timeout(patience) as sending:
                        reader.interrupt = partial(sending.reschedule, 0.0)
                        for text in messages:
                            await self.send({"type": "websocket.send", "text": text})
                    reader.interrupt = None
        except RightLost as lost:
            code, reason = _CODES.get(lost.why, RIGHT_LOST), lost.detail
        except (TimeoutError, OSError):
            code = FAILED
            if reader.lost is not None:  # interrupted, to make room for others
                code, reason = _CODES.get(reader.lost.why, RIGHT_LOST), reader.lost.detail
        except Exception:
            logger.exception("a feed broke off")
            code = FAILED
        with suppress(Exception):  # the client may be gone by now
            reason = reason[:_MOST_REASON_CHARACTERS]
            await self.send({"type": "websocket.close", "code": code, "reason": reason})


class RunConsumer(_FeedConsumer):
    """``/ws/runs/<id>``: ``?after=<seq>`` or ``?cursor=...``, ``?tree=1``."""

    async def open(self) -> Reader:
        try:
            run = uuid.UUID(self.scope["url_route"]["kwargs"]["id"])
        except ValueError:
            raise sockets.not_allowed() from None
        viewer = await sockets.enter(self.scope, run)
        query = sockets.Query(self.scope, {"after", "cursor", "tree", "view", "tz"})
        cursor, is_tree = query.cursor(run), query.is_tree()
        return Follower(get_hub(), viewer, cursor, is_tree=is_tree, view=query.view())


class RunListConsumer(_FeedConsumer):
    """``/ws/runs``: each run that the user may see, when it changes."""

    async def open(self) -> Reader:
        viewer = await sockets.enter(self.scope, None)
        query = sockets.Query(self.scope, {"view", "tz"})
        return ListFollower(get_hub(), viewer, view=query.view())
