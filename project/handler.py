"""Django's ASGI handler for this project."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, cast

from asgiref.sync import sync_to_async
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from project import errors
from runs.conf import conf
from runs.db import lending
from runs.exceptions import SignInRefused
from runs.identity.actors import address_of
from runs.identity.admission import Admission
from runs.identity.passwords import AT_ONCE

__all__ = ["Handler", "ProbeHandler"]

_Message = Mapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The API answers 413 exactly at RUNS_MAX_INPUT_BYTES. A body above this outer limit is an attack.
_MARGIN_BYTES = 1024 * 1024
# A client that is still sending when the connection closes often sees a reset instead of the
# answer. So read and discard up to this many bytes first.
_DISCARD_BYTES = 64 * 1024 * 1024
# A body may take so long, and longer if it is large: a second more for so many bytes that came.
_BODY_SECONDS = 20.0
_LEAST_BYTES_PER_SECOND = 16 * 1024
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
    view for a codec that is not for text (``base64``).
    """

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
    Django's own handler.

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

        patient = (
            counting_receive if scope["method"] in _SAFE_METHODS else _patient(counting_receive)
        )
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

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase
        if request.method == "POST" and _PASSWORDS.fullmatch(request.path_info):
            try:
                async with self._passwords.place(address_of(request)):
                    response = await sync_to_async(self.get_response)(request)
            except SignInRefused as refusal:
                response = errors.sign_in_refused(request, refusal)
        elif request.method == "POST" and (reserve := _reserve_for(request.path_info)):
            response = await sync_to_async(self._stop)(reserve, request)
        elif isinstance(request, _ProbeRequest):
            response = await sync_to_async(self.get_response)(request)
        else:
            async with self._others.place():
                response = await sync_to_async(self.get_response)(request)
        if isinstance(response, StreamingHttpResponse) and not response.is_async:
            chunks = cast("Iterator[bytes]", response.streaming_content)
            response.streaming_content = _read_in_threads(chunks)
        return response

    async def _refuse_sign_in(
        self, request: HttpRequest, send: Any, refusal: SignInRefused
    ) -> None:
        """Answer late: a client that guesses on many connections keeps none of them busy."""
        await asyncio.sleep(refusal.seconds)
        await self.send_response(errors.sign_in_refused(request, refusal), send)

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


def _patient(receive: _Receive) -> _Receive:
    """Hide a disconnect after the whole request has arrived.

    Django cancels a request whose client disconnects. That is right for a request that only reads.
    But a person who presses Stop and closes the page has pressed Stop, and half of the work may be
    done.
    """
    is_whole = False

    async def receive_patiently() -> _Message:
        nonlocal is_whole
        message = await receive()
        if message["type"] == "http.request":
            is_whole = not message.get("more_body", False)
        elif is_whole:
            await asyncio.Event().wait()  # until the handler is done and cancels this wait
        return message

    return receive_patiently


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
