"""Django's ASGI handler for this project."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, cast

from asgiref.sync import SyncToAsync, sync_to_async
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.exception import response_for_exception
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from project import errors
from runs.conf import conf
from runs.db import lending
from runs.exceptions import SignInRefused
from runs.identity.actors import address_of
from runs.identity.admission import Admission
from runs.identity.passwords import AT_ONCE
from runs.web.late import LateResponse

__all__ = ["Handler", "ProbeHandler"]

_Message = Mapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The API answers 413 exactly at RUNS_MAX_INPUT_BYTES. A body above this outer limit is an attack.
_MARGIN_BYTES = 1024 * 1024
# A client that is still sending when the connection closes often sees a reset instead of the
# answer. So read and discard up to this many bytes first.
_DISCARD_BYTES = 64 * 1024 * 1024
# A body may take so long, and longer if it is large: a second more for so many bytes that came.
_BODY_SECONDS = 20.0
_LEAST_BYTES_PER_SECOND = 16 * 1024
# A client that takes longer for a piece of an answer, of 64 KiB, has gone or reads nothing.
_STUCK_SECONDS = 60.0
# When so much of answers has not been read, clients have less time for each piece.
_MOST_UNREAD_BYTES = 128 * 1024 * 1024
_HURRY_SECONDS = 2.0
_PROBES = re.compile(r"/(?:health/(?:live|ready)|metrics)/?")
# The stops, of the API, the pages and the admin, by the connections that they may use.
_STOPS = {
    lending.STOPS: re.compile(
        r"/runs/[^/]+/stop/?|/app/runs/[^/]+/stop|/admin/runs/runrecord/[^/]+/stop/"
    ),
    lending.STOPS_OF_MANY: re.compile(r"/runs/stop/?|/admin/runs/runrecord/stop/"),
}
# Where a POST has a password to check.
_PASSWORDS = re.compile(
    r"/api-token/?|/(?:accounts|admin)/(?:login|password_change)/|/admin/.*/password/"
)
_PASSWORD_BYTES = 64 * 1024
# Requests other than stops. More threads would only wait for the interpreter and for connections,
# and a stop would be one of them.
_MOST_THREADS = 24


class _Request(ASGIRequest):
    """A request that is read as UTF-8, whatever ``charset`` its Content-Type names.

    Django would decode the query string and forms by it: garbled, or with an exception before any
    view for a codec that is not for text (``base64``). Its answer may come late (runs/web/late.py).
    """

    can_be_late = True

    @property
    def encoding(self) -> str | None:
        return None  # Django takes DEFAULT_CHARSET then

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        pass


class _ProbeRequest(_Request):
    """A request of a balancer, an orchestrator or Prometheus: its Host is not checked.

    They reach a process by its address, which is rightly not in ALLOWED_HOSTS, and no answer to
    them depends on the Host.
    """

    urlconf = "project.probe_urls"  # Django reads it from each request

    def get_host(self) -> str:
        return "probe"


def _new_request(scope: Any, body: Any) -> ASGIRequest:
    is_probe = _PROBES.fullmatch(scope["path"])
    return (_ProbeRequest if is_probe else _Request)(scope, body)


class Handler(ASGIHandler):
    """Answers a request in one thread, from the first middleware to the last line of the view.

    Django's own handler changes to the request's thread and back for each middleware, before the
    view and after it: a dozen changes of thread, which cost a POST some two milliseconds. All
    middleware and views of this project are synchronous. The loop sends what a view streams, as in
    Django's own handler. It also waits for late answers. Neither keeps a thread.

    Two kinds of requests are apart. Those with a password to check wait for their turn on the loop,
    so that they take neither all threads nor all processors. Stops have connections of their own.
    """

    request_class: Any = staticmethod(_new_request)

    def __init__(self) -> None:
        super().__init__()
        self._others = Admission(_MOST_THREADS)
        # While one computes a hash, another one reads and writes.
        self._passwords = Admission(
            AT_ONCE + 1, most_waiting=100, most_of_one=8, patience_seconds=8
        )
        self._unread_bytes = 0  # of the answers that are being sent

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def handle(self, scope: Any, receive: _Receive, send: Any) -> None:
        """Handle a request, unless its body is too large or comes too slowly.

        Django writes a whole body to disk before a view starts, however long the body is, and
        however long that takes. Until then the request has no thread.
        """
        limit = conf().max_input_bytes + _MARGIN_BYTES
        if scope["method"] == "POST" and _PASSWORDS.fullmatch(scope.get("path", "")):
            limit = min(limit, _PASSWORD_BYTES)  # many of these may wait at a time
            try:
                self._passwords.refuse_if_full(_client_of(scope))
            except SignInRefused as full:
                await _discard(receive)
                await self._refuse_sign_in(ASGIRequest(scope, BytesIO()), send, full)
                return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        received = 0
        is_whole = False
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def counting_receive() -> _Message:
            nonlocal received, is_whole
            if is_whole:
                return await receive()  # until the client leaves
            due = started + _BODY_SECONDS + received / _LEAST_BYTES_PER_SECOND
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise _BodyTooSlow from None
            received += len(message.get("body", b""))
            if received > limit:
                raise _BodyTooLarge
            is_whole = not message.get("more_body", False)
            return message

        patient: _Receive = counting_receive
        if scope["method"] not in _SAFE_METHODS:
            patient = _Patience(counting_receive)
            scope = {**scope, _PATIENCE: patient}
        try:
            if declared.isdigit() and int(declared) > limit:
                raise _BodyTooLarge
            await super().handle(scope, patient, send)
        except _BodyTooLarge:
            # "Expect: 100-continue": the client waits for an answer and hasn't sent the body.
            if received or b"expect" not in headers:
                await _discard(receive)
            detail = f"The request's body is larger than {limit} bytes."
            await self._refuse(send, 413, "input_too_large", detail)
        except _BodyTooSlow:
            detail = "The request's body did not arrive in time. Nothing was changed; try again."
            await self._refuse(send, 408, "request_timeout", detail)

    async def read_body(self, receive: _Receive) -> Any:
        # Django closes its file only if the client leaves.
        refused: _BodyRefused | None = None

        async def receive_or_leave() -> _Message:
            nonlocal refused
            try:
                return await receive()
            except _BodyRefused as error:
                refused = error
                return {"type": "http.disconnect"}

        try:
            return await super().read_body(receive_or_leave)
        except RequestAborted:
            if refused is not None:
                raise refused from None
            raise

    async def _refuse(self, send: Any, status: int, code: str, detail: str) -> None:
        refusal = JsonResponse({"code": code, "detail": detail}, status=status)
        refusal.headers["Connection"] = "close"
        await self.send_response(refusal, send)

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = super().get_response(request)
        if _leaves_its_thread(response):
            lending.release_connection()
        return response

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase
        if request.method == "POST" and _PASSWORDS.fullmatch(request.path_info):
            try:
                async with self._passwords.admitted(address_of(request)):
                    response = await sync_to_async(self.get_response)(request)
            except SignInRefused as refusal:
                response = errors.sign_in_refused(request, refusal)
        elif request.method == "POST" and (reserve := _reserve_for(request.path_info)):
            response = await sync_to_async(self._stop)(reserve, request)
        elif isinstance(request, _ProbeRequest):
            response = await sync_to_async(self.get_response)(request)
        else:
            async with self._others.admitted():
                response = await sync_to_async(self.get_response)(request)
        if isinstance(response, StreamingHttpResponse) and not response.is_async:
            chunks = cast("Iterator[bytes]", response.streaming_content)
            response.streaming_content = _read_in_threads(chunks)
        if _leaves_its_thread(response):
            _end_thread()
        if isinstance(response, LateResponse):
            request.close()  # its body may have megabytes
            patience = cast(ASGIRequest, request).scope.get(_PATIENCE)
            if patience is not None:
                patience.end()
            try:
                await response.decide()
            except Exception as error:  # a bug, as in any other view
                return await sync_to_async(response_for_exception)(request, error)
        return response

    async def _refuse_sign_in(
        self, request: HttpRequest, send: Any, refusal: SignInRefused
    ) -> None:
        """Answer late: a client that guesses on many connections keeps none of them busy."""
        await asyncio.sleep(refusal.seconds)
        await self.send_response(errors.sign_in_refused(request, refusal), send)

    async def send_response(self, response: Any, send: _Send) -> None:
        """Send an answer piece by piece, and give up on a client that does not read it."""
        if getattr(response, "has_own_patience", False):
            await super().send_response(response, send)
            return
        size = 0 if response.streaming else len(response.content)
        self._unread_bytes += size
        is_much = self._unread_bytes > _MOST_UNREAD_BYTES
        try:
            patient = _unless_stuck(send, _HURRY_SECONDS if is_much else _STUCK_SECONDS)
            await super().send_response(response, patient)
        finally:
            self._unread_bytes -= size

    def _stop(self, reserve: lending.Reserve, request: HttpRequest) -> HttpResponseBase:
        reserve.lend()
        return self.get_response(request)


class ProbeHandler(Handler):
    """Answers nothing but probes."""

    request_class = _ProbeRequest


class _BodyRefused(Exception):
    """Raised where Django reads the body, so before it has started to answer."""


class _BodyTooLarge(_BodyRefused):
    pass


class _BodyTooSlow(_BodyRefused):
    pass


def _client_of(scope: Any) -> str:
    return str((scope.get("client") or ("",))[0])


def _reserve_for(path: str) -> lending.Reserve | None:
    return next((reserve for reserve, paths in _STOPS.items() if paths.fullmatch(path)), None)


class _Patience:
    """Hides a disconnect after the whole request has arrived, until ``end``.

    Django cancels a request whose client disconnects. That is right for a request that only reads.
    But a person who presses Stop and closes the page has pressed Stop, and half of the work may be
    done. When only the wait for an answer is left, it may be cancelled.
    """

    def __init__(self, receive: _Receive) -> None:
        self._receive = receive
        self._is_whole = False
        self._has_ended = asyncio.Event()

    async def __call__(self) -> _Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._is_whole = not message.get("more_body", False)
        elif self._is_whole:
            await self._has_ended.wait()  # or until the handler is done and cancels this
        return message

    def end(self) -> None:
        self._has_ended.set()


_PATIENCE = "halting.patience"  # its place in the scope


def _leaves_its_thread(response: HttpResponseBase) -> bool:
    """Tell whether the loop continues with this answer alone, and for how long is not known.

    A client may take its time to read a large answer. It must not hold a thread meanwhile, and a
    database connection.
    """
    if isinstance(response, StreamingHttpResponse):
        return response.is_async
    is_large = isinstance(response, HttpResponse) and len(response.content) > Handler.chunk_size
    return is_large or isinstance(response, LateResponse)


def _end_thread() -> None:
    """End the thread that Django keeps for a request until the request is over."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context else None
    if executor is not None:
        executor.shutdown(wait=False)


def _unless_stuck(send: _Send, seconds: float) -> _Send:
    async def send_with_patience(message: _Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            # What Django expects when a client has left.
            raise asyncio.CancelledError from None

    return send_with_patience


async def _discard(receive: _Receive) -> None:
    discarded, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            while more and discarded < _DISCARD_BYTES:
                message = await receive()
                discarded += len(message.get("body", b""))
                more = message.get("more_body", False)  # a disconnect has none


async def _read_in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
