"""Channels consumers: one brings messages to this process's worker, two bring runs to browsers.

``AgentConsumer`` only hands wake-ups and stops over: the work itself is done by the worker, in
threads of its own. A message that is lost costs half a second; a broken layer is retried with
growing pauses and never ends the worker.

``RunConsumer`` and ``RunListConsumer`` send what a follower gives them (``feed``). What a client
sends is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer

from runs.delivery import relay, streamed_text
from runs.delivery.local_runs import Delivery
from runs.delivery.notify import WORKERS_GROUP, worker_group
from runs.web import feed, sockets
from runs.web.feed import Batch, Follower, ListFollower, RightLost, RunIsGone, View
from runs.web.feed.follower import STUCK_SECONDS
from runs.web.feed.frames import as_page_message, as_socket_messages

from .tasks import cancel_and_wait

if TYPE_CHECKING:
    from runs.worker.worker import Worker

__all__ = ["AgentConsumer", "RunConsumer", "RunListConsumer", "listen"]

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0)


class AgentConsumer(AsyncConsumer):
    """Hands messages from the channel layer to the worker."""

    worker: Worker

    async def run_wake(self, message: dict[str, Any]) -> None:
        """A run was queued: {"type": "run.wake"}."""
        self.worker.wake()

    async def run_stop(self, message: dict[str, Any]) -> None:
        """Runs of this worker were asked to stop: {"type": "run.stop", "stops": [...]}.

        Each of them as ``Delivery.as_message`` makes it.
        """
        self.worker.hear_stops([Delivery.from_message(stop) for stop in message["stops"]])

    async def run_ended(self, message: dict[str, Any]) -> None:
        """Runs are over that were started here: {"type": "run.ended", "runs": [id, ...]}."""
        self.worker.look_at_started(uuid.UUID(run) for run in message["runs"])

    async def feed_watch(self, message: dict[str, Any]) -> None:
        """Another process has readers: {"type": "feed.watch", "runs": {id: {call: length}}}."""
        streamed_text.request(message["runs"])


async def listen(worker: Worker) -> None:
    """Receive this worker's messages until cancelled."""
    layer = get_channel_layer()
    if layer is None:
        return
    channel: str | None = None
    failures = 0
    while True:
        joining: asyncio.Task[None] | None = None
        try:
            # The same one again: the layer would fill one that nobody listens to any more.
            channel = channel or await layer.new_channel()
            await layer.group_add(WORKERS_GROUP, channel)
            if relay.is_shared(layer):
                streamed_text.ask_readers()
            joining = asyncio.create_task(_join_as_it_is_called(layer, channel, worker))
            consumer = AgentConsumer()
            consumer.worker = worker
            while True:
                message = await layer.receive(channel)
                failures = 0
                await _hand_over(consumer, message)
        except Exception as error:  # redis, socket, timeout: each layer has its own
            pause = PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS) - 1)]
            failures += 1
            logger.warning("the channel layer does not answer (%s); again in %g s", error, pause)
            await asyncio.sleep(pause)
        finally:
            if joining is not None:
                await cancel_and_wait((joining,))


async def _join_as_it_is_called(layer: Any, channel: str, worker: Worker) -> None:
    """Hear what is sent to the worker; it has another id after it was declared lost."""
    joined = None
    while True:
        try:
            if worker.id != joined:
                await layer.group_add(worker_group(worker.id), channel)
                joined = worker.id
                worker.wake()
                worker.look()  # for what was sent before
        except Exception as error:
            logger.warning("the worker hears of no stops yet (%s)", error)
        await asyncio.sleep(PAUSES_SECONDS[0])


async def _hand_over(consumer: AgentConsumer, message: dict[str, Any]) -> None:
    handlers = {
        "run.wake": consumer.run_wake,
        "run.stop": consumer.run_stop,
        "run.ended": consumer.run_ended,
        "feed.watch": consumer.feed_watch,
    }
    handler = handlers.get(message.get("type", ""))
    if handler is None:
        logger.warning("a message of an unknown type: %r", message.get("type"))
        return
    try:
        await handler(message)
    except (
        Exception
    ) as error:  # it is of another release, say; what it tells of is found by looking
        logger.warning("a message of type %r can't be understood (%r)", message["type"], error)


# Close codes: 1000 and 1012 are RFC 6455's, from 4000 on they are the application's own.
OVER = 1000
RESTARTING = 1012
FAILED = 1011
RIGHT_LOST = 4403
GONE = 4404
TOO_MANY = 4429


class _FeedConsumer(AsyncConsumer):
    """Sends a follower's batches over one socket."""

    #: No messages from the channel layer: the hub hears them once, for all its followers.
    channel_layer_alias = "not used"

    _sending: asyncio.Task[None] | None = None

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        try:
            batches, view = await self.open()
        except sockets.Refused as why:
            await sockets.refuse(self.scope, self.send, why)
            raise StopConsumer from None
        await self.send({"type": "websocket.accept"})
        self._sending = asyncio.create_task(self._send_all(batches, view))

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        """Nothing that a client could say is of interest."""

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        if self._sending is not None:
            self._sending.cancel()
            with suppress(asyncio.CancelledError):
                await self._sending
        raise StopConsumer

    async def open(self) -> tuple[AsyncGenerator[Batch, None], View]:
        """Return what to send, to be overridden.

        Raises:
            sockets.Refused: this one is not let in.
        """
        raise NotImplementedError

    async def _send_all(self, batches: AsyncGenerator[Batch, None], view: View) -> None:
        code = OVER
        try:
            async with aclosing(batches):
                async for batch in batches:
                    messages = (
                        [as_page_message(batch)] if view.is_page else as_socket_messages(batch)
                    )
                    # For all of them: a timer for each would take a quarter of the time.
                    async with asyncio.timeout(STUCK_SECONDS):
                        for text in messages:
                            await self.send({"type": "websocket.send", "text": text})
        except RightLost as lost:
            code = {"restart": RESTARTING, "gone": GONE, "too_many": TOO_MANY}.get(
                lost.why, RIGHT_LOST
            )
        except RunIsGone:
            code = GONE
        except (TimeoutError, OSError):
            code = FAILED
        except Exception:
            logger.exception("a feed broke off")
            code = FAILED
        with suppress(Exception):  # the client may be gone by now
            await self.send({"type": "websocket.close", "code": code})


class RunConsumer(_FeedConsumer):
    """``/ws/runs/<id>``: ``?after=<seq>`` or ``?cursor=...``, ``?tree=1``."""

    async def open(self) -> tuple[AsyncGenerator[Batch, None], View]:
        try:
            run = uuid.UUID(self.scope["url_route"]["kwargs"]["id"])
        except ValueError:
            raise sockets.not_allowed() from None
        viewer = await sockets.enter(self.scope, run)
        query = sockets.Query(self.scope)
        query.refuse_unknown("after", "cursor", "tree", "view", "tz")
        follower = Follower(
            feed.get_hub(), viewer, query.cursor(run), is_tree=query.tree(), view=query.view()
        )
        return follower.batches(), query.view()


class RunListConsumer(_FeedConsumer):
    """``/ws/runs``: the runs that the user may see, whenever one of them changes."""

    async def open(self) -> tuple[AsyncGenerator[Batch, None], View]:
        viewer = await sockets.enter(self.scope, None)
        query = sockets.Query(self.scope)
        query.refuse_unknown("view", "tz")
        follower = ListFollower(feed.get_hub(), viewer, view=query.view())
        return follower.batches(), query.view()
