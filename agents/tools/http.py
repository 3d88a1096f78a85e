"""HTTP under guard: every request is a call of the run that makes it.

``guarded_transport`` makes any SDK stoppable that takes an httpx or httpx2 client; ``open_client``
makes the client behind ``tools.http``. A call is in flight until its response is closed, since an
agent may read a body for minutes. This module knows neither models nor which addresses may be
visited.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar, overload

import anyio
import httpx
import httpx2

from ..cancellation import StopMode
from ..exceptions import AgentStopped, RunIsOver
from ..guard import Call, Guard, current_call, current_guard
from .addresses import Resolver, public_only
from .pools import Transports, undisturbed

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
FINISH_SECONDS = 30.0  # how long a body that nobody waits for any more may take to its end

# These libraries log whole URLs, and headers with cookies in them; and what is logged by an agent
# goes into its run's events. Whoever wants it back sets a level of his own.
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
    _opened_by(guard).clients.append(client)
    return client


def open_sync_client(guard: Guard, transports: Transports) -> httpx.Client:
    """Make the ``tools.http`` of one run of a ``def`` agent; see ``open_client``."""
    client = httpx.Client(
        transport=_guard(transports.http_sync(), guard),
        timeout=TIMEOUT,
        trust_env=False,
    )
    _opened_by(guard).clients.append(client)
    return client


async def close_clients(guard: Guard) -> None:
    """Close the clients of a run, and each response that its code has left open.

    For the runtime, once the agent's code has returned: a response that nobody closes would be in
    flight for ever. Whoever still reads one, in a thread say, is refused at the next chunk. Repeats
    do no harm.
    """
    with _lock:
        opened = _opened.pop(guard, None)
    if opened is None:
        return
    for body in list(opened.bodies):
        await body.close_for_good()
    for client in opened.clients:
        if isinstance(client, httpx.AsyncClient):
            await client.aclose()
        else:
            client.close()


class _Opened:
    """What the code of one run has opened and not closed yet."""

    def __init__(self) -> None:
        self.bodies: set[_AsyncBody | _SyncBody] = set()
        self.clients: list[httpx.AsyncClient | httpx.Client] = []


_opened: dict[Guard, _Opened] = {}
_lock = threading.Lock()


def _opened_by(guard: Guard) -> _Opened:
    with _lock:
        return _opened.setdefault(guard, _Opened())


def _note_open(guard: Guard, body: _AsyncBody | _SyncBody) -> None:
    with _lock:
        _opened.setdefault(guard, _Opened()).bodies.add(body)


def _note_closed(guard: Guard, body: _AsyncBody | _SyncBody) -> None:
    with _lock:
        opened = _opened.get(guard)
        if opened is None:
            return
        opened.bodies.discard(body)
        if not opened.bodies and not opened.clients:
            del _opened[guard]


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


class _Governed:
    """Who has a say over one request: a guard, and the call that it is a part of, if any."""

    __slots__ = ("call", "guard", "own_call")

    def __init__(self, guard: Guard, call: Call, own_call: bool) -> None:
        self.guard = guard
        self.call = call
        self.own_call = own_call

    def check(self) -> None:
        """Refuse to go on, if the stop is harder than one that lets calls finish."""
        if self.guard.token.mode not in (None, StopMode.GRACEFUL):
            self.guard.check(self.call.tool, self.call.label)

    @property
    def may_finish(self) -> bool:
        """Whether the call is to finish although whoever made it was cancelled."""
        return not self.call._may_be_cut()


class _Guarding(Generic[Rq, Rs]):
    """What the guarded transports have in common."""

    def __init__(self, inner: Any, fallback: Guard | None) -> None:
        self._inner = inner
        self._fallback = fallback

    def _admit(self, request: Rq) -> _Governed | None:
        """Let a request start, or refuse it; None if no run has a say over it."""
        enclosing = current_call()
        if enclosing is not None:
            governed = _Governed(enclosing._guard, enclosing, own_call=False)
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
        return _Governed(found, call, own_call=True)


class _AsyncGuarding(_Guarding[Rq, Rs]):
    _body_class: type[_AsyncBody]

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
        if response.is_closed:  # a fake's, which has its content already: nobody will close it
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
    _sync_body_class: type[_SyncBody]

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


class _AsyncBody:
    """A response's body, read under guard. A call that is the request's own ends with it."""

    def __init__(self, response: Any, governed: _Governed) -> None:
        self._stream: Any = response.stream
        self._governed = governed
        # An event stream may have no end; any other body has one.
        self._has_end = "text/event-stream" not in response.headers.get("content-type", "")
        self._has_ended = False
        self._reading: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._is_over = False
        self._closed = False
        self._error: BaseException | None = None
        if governed.own_call:
            _note_open(governed.guard, self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        try:
            while True:
                self._check()
                chunk = await self._next(chunks)
                if chunk is None:
                    return
                yield chunk
        except GeneratorExit:  # read as far as was wanted
            await self.aclose()
            raise
        except BaseException as error:
            self._error = error
            await self.aclose()
            raise

    def _check(self) -> None:
        if self._is_over:
            raise RunIsOver("this run is over; its responses can't be read any more")
        self._governed.check()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Return the next chunk, None at the end."""
        governed = self._governed
        if not governed.own_call:
            return await anext(chunks, None)
        try:
            return await governed.call.uninterrupted(self._read(chunks))
        except asyncio.CancelledError:
            if self._has_end and governed.may_finish and not self._is_over:
                await self._finish(chunks)
            raise

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        self._reading = asyncio.current_task()
        try:
            chunk = await anext(chunks, None)
        finally:
            self._reading = None
        self._has_ended = chunk is None
        return chunk

    async def _finish(self, chunks: AsyncIterator[bytes]) -> None:
        """Read the rest for nobody, so that the request ends as the server knows it."""

        async def rest() -> None:
            async with asyncio.timeout(FINISH_SECONDS):
                while await self._read(chunks) is not None:
                    self._check()

        with suppress(Exception, AgentStopped, asyncio.CancelledError):
            await self._governed.call.uninterrupted(rest())

    async def finish_for_nobody(self, error: BaseException) -> None:
        """Take the answer of a request whose maker was cancelled meanwhile."""
        self._error = error
        try:
            if self._has_end and self._governed.may_finish:
                await self._finish(aiter(self._stream))
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        governed = self._governed
        if not governed.own_call:
            await undisturbed(self._stream.aclose())
            return
        _note_closed(governed.guard, self)
        try:
            await undisturbed(self._stream.aclose())
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            if self._has_ended and isinstance(self._error, asyncio.CancelledError):
                self._error = None  # the reader was cut, the request was not
            governed.call._completed = False  # so far that spoke of one chunk only
            governed.call.finish(self._error)

    async def close_for_good(self) -> None:
        """Close from outside of whatever reads it."""
        self._is_over = True
        if self._loop is not asyncio.get_running_loop():
            return  # the next chunk is refused, over there
        if self._reading is not None:
            self._reading.cancel()  # whoever reads gets the cancellation, and closes
            return
        with suppress(Exception):  # nobody is left to hear of it
            await self.aclose()


class _SyncBody:
    """As ``_AsyncBody``, for threads."""

    def __init__(self, response: Any, governed: _Governed) -> None:
        self._stream: Any = response.stream
        self._governed = governed
        self._is_over = False
        self._reading = False
        self._closed = False
        self._error: BaseException | None = None
        if governed.own_call:
            _note_open(governed.guard, self)

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        try:
            while True:
                if self._is_over:
                    raise RunIsOver("this run is over; its responses can't be read any more")
                self._governed.check()
                self._reading = True
                try:
                    chunk = next(chunks, None)
                finally:
                    self._reading = False
                if chunk is None:
                    return
                yield chunk
        except GeneratorExit:
            self.close()
            raise
        except BaseException as error:
            self._error = error
            self.close()
            raise

    def close(self) -> None:
        with _lock:
            if self._closed:
                return
            self._closed = True
        governed = self._governed
        if not governed.own_call:
            self._stream.close()
            return
        _note_closed(governed.guard, self)
        try:
            self._stream.close()
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            governed.call.finish(self._error)

    async def close_for_good(self) -> None:
        """Close from outside of whatever reads it."""
        self._is_over = True
        if self._reading:
            return  # closing a socket under a thread that reads it would not wake that thread
        with suppress(Exception):
            await asyncio.to_thread(self.close)


class _HttpxAsyncBody(_AsyncBody, httpx.AsyncByteStream):
    pass


class _HttpxSyncBody(_SyncBody, httpx.SyncByteStream):
    pass


class _Httpx2AsyncBody(_AsyncBody, httpx2.AsyncByteStream):
    pass


class _Httpx2SyncBody(_SyncBody, httpx2.SyncByteStream):
    pass


class _HttpxAsync(_AsyncGuarding[httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    _body_class = _HttpxAsyncBody


class _HttpxSync(_SyncGuarding[httpx.Request, httpx.Response], httpx.BaseTransport):
    _sync_body_class = _HttpxSyncBody


class _HttpxBoth(_HttpxAsync, _HttpxSync):
    pass


class _Httpx2Async(_AsyncGuarding[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    _body_class = _Httpx2AsyncBody


class _Httpx2Sync(_SyncGuarding[httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    _sync_body_class = _Httpx2SyncBody


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
