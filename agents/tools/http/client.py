"""HTTP under guard: every request is a call of the run that makes it.

``guarded_transport`` makes any SDK stoppable that takes an httpx or httpx2 client; ``open_client``
makes the client behind ``tools.http``. A call is in flight until its response is closed, since an
agent may read a body for minutes. This module knows neither models nor which addresses may be
visited.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Generic, Self, TypeVar, overload

import anyio
import httpx
import httpx2

from agents.guard import Guard, current_call, current_guard

from .addresses import Resolver, public_only
from .bodies import (
    AsyncBody,
    Governed,
    Httpx2AsyncBody,
    Httpx2SyncBody,
    HttpxAsyncBody,
    HttpxSyncBody,
    SyncBody,
    note_client,
    take_open,
)
from .pools import Transports

__all__ = [
    "Resolver",
    "Transports",
    "close_clients",
    "guarded_transport",
    "open_client",
    "open_sync_client",
    "public_only",
]

Rq = TypeVar("Rq", httpx.Request, httpx2.Request)
Rs = TypeVar("Rs", httpx.Response, httpx2.Response)

TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=10.0)

# These libraries log whole URLs, and headers with cookies in them; and what is logged by an agent
# goes into its run's events. Set a level of your own to have it back.
for _name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.WARNING)


@overload
def guarded_transport(inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport: ...
@overload
def guarded_transport(inner: httpx.BaseTransport) -> httpx.BaseTransport: ...
@overload
def guarded_transport(inner: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport: ...
@overload
def guarded_transport(inner: httpx2.BaseTransport) -> httpx2.BaseTransport: ...
def guarded_transport(inner: Any) -> Any:
    """Wrap a transport of httpx or httpx2 so that each of its requests is a guarded call.

    ``httpx.AsyncClient(transport=guarded_transport(httpx.AsyncHTTPTransport()))``. The run is the
    one that makes the request, else (in a thread or a task that lost its context) the one that made
    the wrapper; outside any run it does nothing. Within a call that is guarded already, such as
    ``call_llm``, a request is only checked, so that an SDK's retry after a stop is refused.

    A graceful stop lets a request finish, its body included.

    Raises:
        TypeError: ``inner`` is not a transport.
    """
    return _guard(inner, current_guard())


def open_client(guard: Guard, transports: Transports) -> httpx.AsyncClient:
    """Make the ``tools.http`` of one run: cookies of its own, connections shared with others.

    Closed by ``close_clients``; closing it leaves the shared connections alone.
    """
    client = httpx.AsyncClient(
        transport=_guard(transports.http_async(), guard),
        timeout=TIMEOUT,
        trust_env=False,
    )
    note_client(guard, client)
    return client


def open_sync_client(guard: Guard, transports: Transports) -> httpx.Client:
    """Make the ``tools.http`` of one run of a ``def`` agent; see ``open_client``."""
    client = httpx.Client(
        transport=_guard(transports.http_sync(), guard),
        timeout=TIMEOUT,
        trust_env=False,
    )
    note_client(guard, client)
    return client


async def close_clients(guard: Guard) -> None:
    """Close the clients of a run, and each response that its code has left open.

    For the runtime, once the agent's code has returned: a response that is not closed would be in
    flight for ever. Code that still reads one, in a thread say, is refused at the next chunk.
    Repeats do no harm.
    """
    bodies, clients = take_open(guard)
    for body in bodies:
        await body.close_for_good()
    for client in clients:
        if isinstance(client, httpx.AsyncClient):
            await client.aclose()
        else:
            client.close()


def _guard(inner: Any, fallback: Guard | None) -> Any:
    # A fake may be both, synchronous and asynchronous, as httpx.MockTransport is; so are we then.
    if isinstance(inner, _Guarding):
        return inner
    for kind, bases in _KINDS.items():
        if all(isinstance(inner, base) for base in bases):
            return kind(inner, fallback)
    raise TypeError(
        "guarded_transport() wraps a transport of httpx or httpx2, such as"
        f" httpx.AsyncHTTPTransport(), not {type(inner).__name__}"
    )


class _Guarding(Generic[Rq, Rs]):
    """What the guarded transports have in common."""

    def __init__(self, inner: Any, fallback: Guard | None) -> None:
        self._inner = inner
        self._fallback = fallback

    def _admit(self, request: Rq) -> Governed | None:
        """Let a request start, or refuse it; None if no run has a say over it."""
        enclosing = current_call()
        if enclosing is not None:
            governed = Governed(enclosing._guard, enclosing, own_call=False)
            if enclosing.has_gone_out:  # this is another try, or another step: a new start
                governed.guard.check(enclosing.tool, enclosing.label)
            else:  # the call was admitted, so it is in flight, and a graceful stop lets it finish
                governed.check()
            enclosing.has_gone_out = True
            return governed
        found = current_guard() or self._fallback
        if found is None:
            return None
        method, host = request.method, request.url.host  # nothing else: paths may hold secrets
        call = found.call("http", f"{method} {host}", method=method, host=host).start()
        return Governed(found, call, own_call=True)


class _AsyncGuarding(_Guarding[Rq, Rs]):
    _body_class: type[AsyncBody]

    async def handle_async_request(self, request: Rq) -> Rs:
        governed = self._admit(request)
        if governed is None:
            return await self._send(request)
        if not governed.own_call:
            response = await self._send(request)
            if not response.is_closed:
                response.stream = self._body_class(response, governed)  # type: ignore[assignment]
            return response
        answered: list[Rs] = []

        def record(response: Rs) -> None:
            governed.call.data["status"] = response.status_code
            answered.append(response)

        try:
            await governed.call.uninterrupted(self._send_scoped(request, governed.guard), record)
        except BaseException as error:
            if answered:  # cancelled, but the request went through: so does its body
                await self._body_class(answered[0], governed).finish_for_nobody(error)
            else:
                governed.call.finish(error)
            raise
        response = answered[0]
        if response.is_closed:  # a fake's, which has its content already, and is not closed
            governed.call.finish()
        else:
            response.stream = self._body_class(response, governed)  # type: ignore[assignment]
        return response

    async def _send(self, request: Rq) -> Rs:
        response: Rs = await self._inner.handle_async_request(request)
        return response

    async def _send_scoped(self, request: Rq, guard: Guard) -> Rs:
        """Send, and let a cancellation reach the library through a scope of anyio's only.

        httpx 0.28 loses a connection of its pool for ever when ``task.cancel()`` meets it while it
        connects: measured, 1 to 12 of 1,000; with a scope none of 14,000. httpx2 loses none.
        """
        scope = anyio.CancelScope()

        async def send() -> Rs | None:
            with scope:
                return await self._send(request)
            return None

        sending = guard.create_task(send())
        interruption: asyncio.CancelledError | None = None
        while not sending.done():
            try:
                await asyncio.wait((sending,))
            except asyncio.CancelledError as error:
                interruption = error
                scope.cancel()
        response = sending.result()
        if response is None:
            raise interruption or asyncio.CancelledError
        return response

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._inner.__aexit__(*exc_info)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _SyncGuarding(_Guarding[Rq, Rs]):
    _sync_body_class: type[SyncBody]

    def handle_request(self, request: Rq) -> Rs:
        governed = self._admit(request)
        if governed is None:
            return self._send_now(request)
        try:
            response = self._send_now(request)
        except BaseException as error:
            if governed.own_call:
                governed.call.finish(error)
            raise
        if governed.own_call:
            governed.call.data["status"] = response.status_code
        if not response.is_closed:
            response.stream = self._sync_body_class(response, governed)  # type: ignore[assignment]
        elif governed.own_call:
            governed.call.finish()
        return response

    def _send_now(self, request: Rq) -> Rs:
        response: Rs = self._inner.handle_request(request)
        return response

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._inner.__exit__(*exc_info)

    def close(self) -> None:
        self._inner.close()


class _HttpxAsync(_AsyncGuarding[httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    _body_class = HttpxAsyncBody


class _HttpxSync(_SyncGuarding[httpx.Request, httpx.Response], httpx.BaseTransport):
    _sync_body_class = HttpxSyncBody


class _HttpxBoth(_HttpxAsync, _HttpxSync):
    pass


class _Httpx2Async(_AsyncGuarding[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    _body_class = Httpx2AsyncBody


class _Httpx2Sync(_SyncGuarding[httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    _sync_body_class = Httpx2SyncBody


class _Httpx2Both(_Httpx2Async, _Httpx2Sync):
    pass


_KINDS: dict[type[_Guarding[Any, Any]], tuple[type, ...]] = {
    _HttpxBoth: (httpx.AsyncBaseTransport, httpx.BaseTransport),
    _HttpxAsync: (httpx.AsyncBaseTransport,),
    _HttpxSync: (httpx.BaseTransport,),
    _Httpx2Both: (httpx2.AsyncBaseTransport, httpx2.BaseTransport),
    _Httpx2Async: (httpx2.AsyncBaseTransport,),
    _Httpx2Sync: (httpx2.BaseTransport,),
}
