"""An endpoint that speaks the OpenAI protocol, reached through OpenAI's own SDK.

The SDK decides what to retry and when; this module translates its errors. Importing the SDK takes
half a second, so this module is imported when a model is made, not before.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, NoReturn

import anyio
import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream

from agents.cancellation import CancelToken, has_cleanup
from agents.exceptions import BodyRefused, LLMError
from agents.guard import current_call
from agents.tools.http.client import guarded_transport

from .body import DONE, AnswerBody, NotJSON
from .errors import detail_of, without_key
from .reply import PartialReply

__all__ = ["Endpoint"]

# The SDK's first request asks for this, which starts a process once. Asked here, it is not the run
# of that request that has started it.
platform.platform()

# How long the end of a body may take; then it is cut.
REST_SECONDS = 1.0  # after [DONE]
USAGE_SECONDS = 3.0  # after a reason to finish: usage and [DONE] are still to come
DOUBT_SECONDS = 30.0  # after one that came with text: some endpoints send one with each chunk

_BROKEN = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)
_OPTIONS = {"timeout": "timeout", "extra_query": "params", "extra_body": "extra_json"}


class Endpoint:
    """One endpoint with one key.

    ``transport`` is not guarded yet. ``is_proxied`` is for errors; see ``Model`` for the rest.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        transport: httpx2.AsyncBaseTransport,
        read_seconds: float,
        max_retries: int,
        *,
        is_proxied: bool = False,
    ) -> None:
        self._api_key = api_key
        self._unreachable = "can't be reached" + " through its proxy" * is_proxied
        self._takes_stream_options = True
        timeout = httpx2.Timeout(read_seconds, connect=10.0, write=60.0, pool=10.0)
        self._client = _StoppableOpenAI(
            base_url=base_url,
            api_key=api_key,
            admin_api_key="",  # "", not None: else the SDK would look into the environment
            webhook_secret="",
            max_retries=max_retries,
            timeout=timeout,
            default_headers={"User-Agent": f"Halting (openai {openai.__version__})"},
            http_client=httpx2.AsyncClient(
                transport=guarded_transport(transport),
                timeout=timeout,
                trust_env=False,
                follow_redirects=True,
            ),
        )
        self._client.organization = None  # the environment's values of these are OpenAI's,
        self._client.project = None  # and this endpoint may be another's

    async def converse(
        self, body: dict[str, Any], reply: PartialReply, show: Callable[[str], None]
    ) -> None:
        """Send a request, and add what comes to ``reply``; ``show`` gets the text as it comes.

        Raises:
            LLMError: the endpoint refused, failed, or can't be reached.
            AgentStopped: a stop was requested, and the guard refused a retry.
        """
        with self._translated():
            response = await self._open(body)
            try:
                await self._read(response, reply, show)
            finally:
                await response.aclose()

    async def aclose(self) -> None:
        await self._client.close()

    async def _open(self, body: dict[str, Any]) -> httpx2.Response:
        """Ask for a stream that ends with its usage; without, if the endpoint refuses that."""
        if body["stream"] and self._takes_stream_options:
            asking = {**body, "stream_options": {"include_usage": True}}
            asking["stream_options"].update(body.get("stream_options") or {})
            try:
                return await self._post(asking)
            except openai.APIStatusError as error:
                refused = "stream_options" in f"{error.message} {error.body}"
                if error.status_code not in (400, 422) or not refused:
                    raise
            self._takes_stream_options = False
        return await self._post(body)

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        # For the SDK it is a stream, whatever the body asks for: so the bytes are read here.
        stream: AsyncStream[object] = await self._client.post(
            _PATH, cast_to=object, stream=True, stream_cls=AsyncStream[object], **self._sent(body)
        )
        return stream.response

    def _sent(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the caller's parameters as arguments of the SDK: the body, and its options."""
        body = dict(body)
        options = {theirs: body.pop(ours) for ours, theirs in _OPTIONS.items() if ours in body}
        headers = dict(body.pop("extra_headers", None) or {})
        if not self._api_key:
            headers.setdefault("Authorization", openai.omit)
        return {"body": body, "options": {**options, "headers": headers}}

    async def _read(
        self, response: httpx2.Response, reply: PartialReply, show: Callable[[str], None]
    ) -> None:
        label = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        body = AnswerBody(label, response.status_code)
        came: object = None
        try:
            async with asyncio.timeout(None) as limit:
                async for data in response.aiter_bytes():
                    if not reply.is_done:
                        _take(body.feed(data), reply, show)
                    seconds = _seconds_left(reply)
                    if (seconds, reply.extent) != came:  # a heartbeat gives no more time
                        came = (seconds, reply.extent)
                        limit.reschedule(seconds and asyncio.get_running_loop().time() + seconds)
                if not reply.is_done:
                    _take(body.close(), reply, show)
        except (TimeoutError, NotJSON, *_BROKEN):
            if not reply.is_whole:
                raise
        reply.is_done = reply.is_done or body.is_document
        show(reply.end())
        reply.check_whole()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except LLMError as error:  # it may quote what the endpoint said in a reply
            detail = self._redacted(error.detail)
            message = self._redacted(str(error))
            raise LLMError(message, status=error.status, detail=detail) from error.__cause__
        except openai.APIStatusError as error:
            answered = f"answered {error.status_code}"
            if error.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                answered = f"{self._unreachable}: the proxy {answered}"
            self._fail(answered, error, error.status_code, detail_of(error.body))
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            self._fail("did not answer in time", error)
        except openai.APIConnectionError as error:
            self._fail(self._unreachable, error, detail=_reason(error.__cause__))
        except _BROKEN as error:
            self._fail("broke off the connection", error, detail=_reason(error))
        except NotJSON as error:
            self._fail("sent something that is not JSON", error)
        except openai.OpenAIError as error:
            self._fail("failed", error, detail=detail_of(str(error)))

    def _fail(
        self, what: str, error: Exception, status: int | None = None, detail: str = ""
    ) -> NoReturn:
        detail = self._redacted(detail)
        message = f"the model's endpoint {what}" + (f": {detail}" if detail else "")
        raise LLMError(message, status=status, detail=detail) from error

    def _redacted(self, text: str) -> str:
        return without_key(text, self._api_key)


_PATH = "/chat/completions"


def _take(values: Iterable[object], reply: PartialReply, show: Callable[[str], None]) -> None:
    for value in values:
        if reply.is_done:
            return
        if value is DONE:
            reply.is_done = True
            return
        try:
            text = reply.add(value)
        except RecursionError as error:  # JSON may be nested deeper than Python goes
            raise NotJSON from error
        show(text)


def _seconds_left(reply: PartialReply) -> float | None:
    """Return how much longer the body may take, None if the reply goes on."""
    if reply.is_done:  # read on to the body's end, so that the connection can be used again
        return REST_SECONDS
    if reply.is_finished:
        return USAGE_SECONDS if reply.is_finished_barely else DOUBT_SECONDS
    return None


def _reason(cause: BaseException | None) -> str:
    if isinstance(cause, httpx2.ProxyError):
        return f"the proxy answered {cause}"
    # Other errors may quote a header, and that may be the key.
    shown = (httpx2.NetworkError, httpx2.RemoteProtocolError, ssl.SSLError, BodyRefused)
    return str(cause) if isinstance(cause, shown) else ""


class _StoppableOpenAI(AsyncOpenAI):
    """A stop ends its pause before a retry, which may take two minutes."""

    async def _sleep_for_retry(self, **about: Any) -> None:
        # This method is not public, but the SDK has no public hook between two tries. If the SDK
        # renames it, stops wait for the pause, and a test fails.
        call = current_call()
        if call is None or has_cleanup():
            await super()._sleep_for_retry(**about)
            return
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as pause:

            def end_pause(_: CancelToken) -> None:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(pause.cancel)

            call.token.add_callback(end_pause)
            try:
                await super()._sleep_for_retry(**about)
            finally:
                call.token.remove_callback(end_pause)
        # The guarded transport refuses the next try.
