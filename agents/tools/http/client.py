"""HTTP under guard: every request is a call of the run that makes it.

``guarded_transport`` makes any SDK stoppable that takes an httpx or httpx2 client; ``open_client``
makes the client of ``tools.http``. A call is in flight until its response is closed, since an agent
may read a body for minutes. A request to a model is a call of its kind: see ``llm.traffic``. This
module does not know which addresses may be visited.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self, TypedDict, TypeVar, Unpack, overload

import anyio
import httpx
import httpx2

from agents.exceptions import InvalidAddress
from agents.guard import Call, Guard, carried, current_call, current_guard, wait_out
from agents.process.threads import waiting
from agents.tools.llm.traffic.bodies import AsyncWatched, SyncWatched
from agents.tools.llm.traffic.recognise import recognise

from . import public
from .admission import Admitted, admit
from .bodies import AsyncBody, SyncBody, note_open, take_open
from .decoding import ACCEPTED, MAX_BODY_BYTES, AsyncDecoded, SyncDecoded, limit_of, prepare
from .in_threads import OnLoop, Wait
from .last_moment import (
    AsyncAtTheLastMoment,
    AtTheLastMoment,
    SyncAtTheLastMoment,
    has_moments,
)
from .pools import Transports
from .public import public_only
from .sockets import shut_down_request
from .traceparent import mark

__all__ = [
    "MAX_BODY_BYTES",
    "Transports",
    "close_clients",
    "guard_one_request",
    "guard_one_request_in_thread",
    "guarded_transport",
    "open_client",
    "open_sync_client",
    "public_only",
]

Client = TypeVar("Client", httpx.AsyncClient, httpx.Client)


class _Options(TypedDict, total=False):
    public_only: bool
    max_body_bytes: int | None


TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=10.0)

# These libraries log whole URLs, and headers with cookies; what is logged in a run goes into its
# events. To have these lines back, set a level of your own.
for _name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.WARNING)


@overload
def guarded_transport(
    inner: httpx.AsyncBaseTransport, **options: Unpack[_Options]
) -> httpx.AsyncBaseTransport: ...
@overload
def guarded_transport(
    inner: httpx.BaseTransport, **options: Unpack[_Options]
) -> httpx.BaseTransport: ...
@overload
def guarded_transport(
    inner: httpx2.AsyncBaseTransport, **options: Unpack[_Options]
) -> httpx2.AsyncBaseTransport: ...
@overload
def guarded_transport(
    inner: httpx2.BaseTransport, **options: Unpack[_Options]
) -> httpx2.BaseTransport: ...
def guarded_transport(inner: Any, **options: Unpack[_Options]) -> Any:
    """Wrap a transport of httpx or httpx2 so that each of its requests is a guarded call.

    ``httpx.AsyncClient(transport=guarded_transport(httpx.AsyncHTTPTransport()))``. The call belongs
    to the run that makes the request; in a thread or task that lost its context, to the run that
    made the wrapper. Outside any run the wrapper guards nothing. Within a call that is guarded
    already, such as ``call_llm``, a request is only checked, so that an SDK's retry after a stop is
    refused. Bodies are unpacked here, within bounds, so ``Content-Encoding`` is gone.

    A graceful stop lets a request finish, its body included.

    Args:
        public_only: refuse what ``tools.http`` refuses: see ``public_only``.
        max_body_bytes: the most bytes that a body may have, unpacked; None for no limit. The
            extension of the same name of a request goes first.

    Raises:
        TypeError: ``inner`` is not a transport.
    """
    if options.get("public_only") and inner is not None:  # for public_only(), None is no mistake
        inner = public.public_only(inner)
    return _guarded(inner, current_guard(), options.get("max_body_bytes", MAX_BODY_BYTES))


def open_client(guard: Guard, transports: Transports) -> httpx.AsyncClient:
    """Make the ``tools.http`` of one run: cookies of its own, connections shared with others.

    ``close_clients`` closes it; the shared connections stay.
    """
    return _open(_AsyncClient, transports.http_async(), guard)


def open_sync_client(guard: Guard, transports: Transports, wait: Wait) -> httpx.Client:
    """Make the ``tools.http`` of one run of a ``def`` agent; see ``open_client``.

    Its requests are made on the agents' loop; ``wait`` waits for them.
    """
    return _open(_Client, transports.http_async(), guard, lambda inner: OnLoop(inner, wait))


def _open(
    kind: type[Client],
    transport: httpx.AsyncBaseTransport,
    guard: Guard,
    adapted: Callable[[Any], Any] = lambda transport: transport,
) -> Client:
    client = kind(
        transport=adapted(_guarded(transport, guard, MAX_BODY_BYTES)),
        timeout=TIMEOUT,
        trust_env=False,
        headers={"Accept-Encoding": ACCEPTED},
    )
    note_open(guard, client)
    return client


class _Building:
    """Says which address is wrong with an error of ours, that httpx's callers know as well."""

    def build_request(self, method: str, url: Any, **options: Any) -> httpx.Request:
        try:
            request: httpx.Request = super().build_request(method, url, **options)  # type: ignore[misc]
            _ = request.url.host  # decodes the name, and may fail as well
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidAddress(f"the address can't be visited: {error}") from error
        return request


class _AsyncClient(_Building, httpx.AsyncClient):
    pass


class _Client(_Building, httpx.Client):
    pass


async def close_clients(guard: Guard) -> None:
    """Close the clients of a run, and each response that its code has left open.

    For the runtime, after the agent's code has returned: an open response would stay in flight for
    ever. A thread that still reads one is refused at the next chunk. Repeats do no harm.
    """
    for opened in take_open(guard):
        if isinstance(opened, httpx.AsyncClient):
            await opened.aclose()
        elif isinstance(opened, httpx.Client):
            opened.close()
        else:
            await opened.close_for_good()


async def guard_one_request(transport: Any, send: Callable[..., Any], request: Any) -> Any:
    """Guard one request of a transport of httpx or httpx2; ``send(transport, request)`` sends it.

    For methods that were replaced: see ``everything``. A body may have any size.
    """
    plain = _Plain(transport, partial(send, transport))
    return await _AsyncGuarding(plain, None, None).handle_async_request(request)


def guard_one_request_in_thread(transport: Any, send: Callable[..., Any], request: Any) -> Any:
    """As ``guard_one_request``, for threads."""
    plain = _Plain(transport, partial(send, transport))
    return _SyncGuarding(plain, None, None).handle_request(request)


class _Plain:
    """A transport as the library has made it, although its method was replaced."""

    has_moments = True

    def __init__(self, transport: Any, send: Callable[[Any], Any]) -> None:
        self._inner = transport
        self.handle_request = self.handle_async_request = send


def _guarded(inner: Any, fallback: Guard | None, max_body_bytes: int | None) -> Any:
    if isinstance(inner, _Guarding):
        return inner
    kind = public.kind_of_wrapper(inner, _AsyncGuarding, _SyncGuarding)
    return kind(inner, fallback, max_body_bytes)


class _Guarding:
    """What the guarded transports have in common."""

    def __init__(self, inner: Any, fallback: Guard | None, max_body_bytes: int | None) -> None:
        self._inner = inner
        self._fallback = fallback
        self._max_body_bytes = max_body_bytes
        self._has_moments = has_moments(inner)

    def _admit(self, request: Any, kind: type[AtTheLastMoment]) -> Admitted:
        """Let a request start, or refuse it."""
        prepare(request)
        guard = None if current_call() is not None else current_guard() or self._fallback
        asked = None if guard is None else recognise(request)
        host = _host_of(request.url)
        admitted = admit(guard, request.method, host, asked, request.headers)
        call = admitted.call
        if call is None:
            return admitted
        mark(request, host, call.guard)
        if self._has_moments:
            kind.note(request, call)
        else:
            call.is_sent = None
        return admitted


class _AsyncGuarding(_Guarding):
    async def handle_async_request(self, request: Any) -> Any:
        limit = limit_of(request, self._max_body_bytes)
        admitted = self._admit(request, AsyncAtTheLastMoment)
        call, guard, _ = admitted
        if call is None or guard is None:
            with carried(call):
                response = await self._inner.handle_async_request(request)
            return _answered(request, response, admitted, AsyncBody, limit)
        responses: list[Any] = []

        def record(response: Any) -> None:
            _note_head(admitted, response)
            responses.append(response)

        try:
            response = await call.uninterrupted(self._send_scoped(request, call, guard), record)
        except BaseException as error:
            if responses:  # cancelled, but the request went through: so does its body
                response = _answered(request, responses[0], admitted, AsyncBody, limit)
                if not response.is_closed:
                    await response.stream.finish_unread(error)
            else:
                call.finish(error)
            raise
        return _answered(request, response, admitted, AsyncBody, limit)

    async def _send_scoped(self, request: Any, call: Call, guard: Guard) -> Any:
        """Send, and let a cancellation reach the library through a scope of anyio's only.

        httpx 0.28 loses a connection of its pool for ever when ``task.cancel()`` meets it while it
        connects: measured, 1 to 12 of 1,000; with a scope none of 14,000. httpx2 loses none.
        """
        scope = anyio.CancelScope()

        async def send() -> Any:
            with scope, carried(call):
                return await self._inner.handle_async_request(request)

        sending = guard.create_task(send())
        interruption = await wait_out(sending, scope.cancel)
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


class _SyncGuarding(_Guarding):
    def handle_request(self, request: Any) -> Any:
        limit = limit_of(request, self._max_body_bytes)
        admitted = self._admit(request, SyncAtTheLastMoment)
        call, guard, _ = admitted
        trace = request.extensions.get("trace")

        def cut() -> None:
            shut_down_request(self._inner, trace)

        try:
            with waiting(), carried(call), _cut_by(call, cut):
                response = self._inner.handle_request(request)
        except BaseException as error:
            if call is not None and guard is not None:
                call.finish(error)
            raise
        _note_head(admitted, response)
        return _answered(request, response, admitted, SyncBody, limit)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._inner.__exit__(*exc_info)

    def close(self) -> None:
        self._inner.close()


def _cut_by(call: Call | None, cut: Callable[[], object]) -> AbstractContextManager[None]:
    return nullcontext() if call is None else call.cut_in_thread(cut)


def _note_head(admitted: Admitted, response: Any) -> None:
    admitted.note_head(response.status_code, response.headers.get("content-type", ""))


def _answered(
    request: Any,
    response: Any,
    admitted: Admitted,
    body: type[AsyncBody | SyncBody],
    max_body_bytes: int | None,
) -> Any:
    call, guard, watching = admitted
    if not response.is_closed:
        is_async = body is AsyncBody
        decoded = AsyncDecoded if is_async else SyncDecoded
        response.stream = decoded(response, max_body_bytes)
        if watching is not None:
            watched = AsyncWatched if is_async else SyncWatched
            response.stream = watched(response.stream, watching)
        if call is not None:
            response.stream = body(request, response, call, guard)
    elif call is not None and guard is not None:  # a fake's response, which has its content already
        if watching is not None:
            watching.feed(response.content)
            watching.close()
        call.finish()
    return response


def _host_of(url: Any) -> str:
    try:
        return str(url.host)
    except UnicodeError:  # "xn--", followed by letters that encode no name
        return str(url.raw_host.decode("ascii", "replace"))
