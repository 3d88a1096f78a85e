"""Halting's own ASGI handler: which requests wait where, and who answers them.

Bodies have their bounds in ``bodies``; clients that leave or read nothing are the subject of
``patience``; ``kinds`` tells by the address what a request is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any, cast

from asgiref.sync import SyncToAsync, sync_to_async
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.exception import (
    convert_exception_to_response,
    response_for_exception,
)
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from runs.db import lending
from runs.exceptions import SignInRefused
from runs.identity.actors import address_of
from runs.identity.admission import Admission
from runs.identity.passwords import AT_ONCE
from runs.telemetry.traceparent import note_request
from runs.web import error_pages
from runs.web.late import LateResponse

from .bodies import BodyRefused, BodyTooLarge, BoundedBody, Message, Receive, discard, most_bytes
from .kinds import ProbeRequest, Request, has_password, reserve_for
from .patience import LateDisconnect, Send, Unread

__all__ = ["Handler", "ProbeHandler"]

_LATE_DISCONNECT = "halting.late_disconnect"  # its place in the scope
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# The body of a POST with a password: many of these may wait at a time.
_PASSWORD_BYTES = 64 * 1024
# Requests other than stops. More threads would only wait for the interpreter and for connections,
# and a stop would be one of them.
_MOST_THREADS = 24


class Handler(ASGIHandler):
    """Answers a request in one thread, from the first middleware to the last line of the view.

    Django's own handler changes to the request's thread and back for each middleware, before the
    view and after it: a dozen changes of thread, which cost a POST some two milliseconds. All
    middleware and views of ours are synchronous. The loop sends what a view streams, as in
    Django's own handler. It also waits for late answers. Neither keeps a thread.

    Two kinds of requests are apart. Those with a password to check wait for their turn on the loop,
    so that they take neither all threads nor all processors. Stops have connections of their own.
    """

    request_class: Any = Request

    def __init__(self) -> None:
        super().__init__()
        self._others = Admission(_MOST_THREADS)
        # While one computes a hash, another one reads and writes.
        self._passwords = Admission(
            AT_ONCE + 1, most_waiting=100, most_of_one=8, patience_seconds=8
        )
        self._unread = Unread()

    def load_middleware(self, is_async: bool = False) -> None:
        super().load_middleware(is_async=False)

    async def handle(self, scope: Any, receive: Receive, send: Any) -> None:
        """Handle a request, unless its body is too large or comes too slowly."""
        limit = most_bytes()
        if has_password(scope["method"], scope.get("path", "")):
            limit = min(limit, _PASSWORD_BYTES)
            try:
                self._passwords.refuse_if_full(_client_of(scope))
            except SignInRefused as full:
                await discard(receive)
                await self._refuse_sign_in(ASGIRequest(scope, BytesIO()), send, full)
                return
        body = BoundedBody(scope, receive, limit)
        patient: Receive = body
        if scope["method"] not in _SAFE_METHODS:
            note_request(scope["headers"])
            patient = LateDisconnect(body)
            scope = {**scope, _LATE_DISCONNECT: patient}
        try:
            body.check_declared()
            await super().handle(scope, patient, send)
        except BodyRefused as refused:
            if isinstance(refused, BodyTooLarge):
                await body.discard_rest()
            answer = {"code": refused.code, "detail": str(refused)}
            refusal = JsonResponse(answer, status=refused.status)
            refusal.headers["Connection"] = "close"
            await self.send_response(refusal, send)

    async def read_body(self, receive: Receive) -> Any:
        # Django closes its file only if the client leaves.
        refused: BodyRefused | None = None

        async def receive_or_leave() -> Message:
            nonlocal refused
            try:
                return await receive()
            except BodyRefused as error:
                refused = error
                return {"type": "http.disconnect"}

        try:
            return await super().read_body(receive_or_leave)
        except RequestAborted:
            if refused is not None:
                raise refused from None
            raise

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = super().get_response(request)
        if _leaves_its_thread(response):
            lending.release_connection()
        return response

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase
        if has_password(request.method, request.path_info):
            try:
                async with self._passwords.admitted(address_of(request)):
                    response = await sync_to_async(self.get_response)(request)
            except SignInRefused as refusal:
                response = error_pages.sign_in_refused(request, refusal)
        elif reserve := reserve_for(request.method, request.path_info):
            response = await sync_to_async(self._stop)(reserve, request)
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
            late_disconnect = cast(ASGIRequest, request).scope.get(_LATE_DISCONNECT)
            if late_disconnect is not None:
                late_disconnect.reveal()
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
        await self.send_response(error_pages.sign_in_refused(request, refusal), send)

    async def send_response(self, response: Any, send: Send) -> None:
        """Send an answer piece by piece, and give up on a client that does not read it."""
        if getattr(response, "has_own_patience", False):
            await super().send_response(response, send)
            return
        size = 0 if response.streaming else len(response.content)
        with self._unread.counted(size, send) as patient:
            await super().send_response(response, patient)

    def _stop(self, reserve: lending.Reserve, request: HttpRequest) -> HttpResponseBase:
        reserve.lend()
        return self.get_response(request)


class ProbeHandler(Handler):
    """Answers nothing but probes, which wait for no other request.

    It calls the view without the site's middleware: that is for people's requests, and may not
    work with a urlconf in which the site's addresses are missing.
    """

    request_class = ProbeRequest

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        view: Any = getattr(self, "_get_response")  # noqa: B009 - Django's, which no stub knows
        self._middleware_chain = convert_exception_to_response(view)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = await sync_to_async(self.get_response)(request)
        return response


def _client_of(scope: Any) -> str:
    return str((scope.get("client") or ("",))[0])


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


async def _read_in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
