"""An endpoint that speaks the OpenAI protocol, reached through OpenAI's own SDK.

The SDK decides what to retry and when; this module translates its errors. Importing the SDK takes
half a second, so this module is imported when a model is made, not before.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import anyio
import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream

from agents.cancellation import CancelToken, has_cleanup
from agents.exceptions import BodyRefused, LLMError
from agents.guard import current_call
from agents.tools.http.client import guarded_transport
from agents.values import redaction

from .reply import PartialReply, detail_of

__all__ = ["Endpoint"]

MAX_EVENT_BYTES = 16 * 1024 * 1024
REST_SECONDS = 1.0  # how long the end of a body may take after [DONE]; then it is cut
MAX_DETAIL = 500  # characters of an endpoint's error message

_BROKEN = (httpx2.RequestError, ssl.SSLError, anyio.EndOfStream)
_OPTIONS = {"timeout": "timeout", "extra_query": "params", "extra_body": "extra_json"}


class Endpoint:
    """One endpoint with one key. ``transport`` is not guarded yet; see ``Model`` for the rest."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        transport: httpx2.AsyncBaseTransport,
        read_seconds: float,
        max_retries: int,
    ) -> None:
        self._api_key = api_key
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
            if not body["stream"]:
                show(reply.add(await self._client.post(_PATH, cast_to=object, **self._sent(body))))
                reply.is_done = True
                return
            response = await self._open_stream(body)
            try:
                await self._read(response, reply, show)
            finally:
                await response.aclose()

    async def aclose(self) -> None:
        await self._client.close()

    async def _open_stream(self, body: dict[str, Any]) -> httpx2.Response:
        """Ask for a stream that ends with its usage; without, if the endpoint refuses that."""
        if self._takes_stream_options:
            asking = {**body, "stream_options": {"include_usage": True}}
            asking["stream_options"].update(body.get("stream_options") or {})
            try:
                return await self._post_stream(asking)
            except openai.APIStatusError as error:
                refused = "stream_options" in f"{error.message} {error.body}"
                if error.status_code not in (400, 422) or not refused:
                    raise
            self._takes_stream_options = False
        return await self._post_stream(body)

    async def _post_stream(self, body: dict[str, Any]) -> httpx2.Response:
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
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type.endswith("json"):  # it does not stream
            show(reply.add(json.loads(await response.aread())))
            reply.is_done = True
        elif media_type == "text/event-stream":
            await self._read_events(response, reply, show)
        else:
            raise LLMError(
                f"the model's endpoint answered with {media_type or 'something'} instead of JSON;"
                " is its address right?",
                status=response.status_code,
            )

    async def _read_events(
        self, response: httpx2.Response, reply: PartialReply, show: Callable[[str], None]
    ) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                async for event in httpx2.EventSource(response, MAX_EVENT_BYTES):
                    if reply.is_done:
                        continue
                    if event.data.startswith("[DONE]"):
                        # Read on to the body's end, so that the connection can be used again.
                        reply.is_done = True
                        limit.reschedule(asyncio.get_running_loop().time() + REST_SECONDS)
                    elif event.data:
                        show(reply.add(json.loads(event.data)))
        except (TimeoutError, *_BROKEN):
            if not reply.is_done:
                raise

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
            self._fail(answered, error, error.status_code, detail_of(error.body))
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            self._fail("did not answer in time", error)
        except openai.APIConnectionError as error:
            self._fail("can't be reached", error, detail=_reason(error.__cause__))
        except _BROKEN as error:
            self._fail("broke off the connection", error, detail=_reason(error))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
        """Take out the key, whole or in part: some endpoints quote a key that they refuse."""
        if len(self._api_key) >= 8:
            text = re.sub(re.escape(self._api_key[:6]) + r"[^\s'\",;]*", "[redacted]", text)
        text = redaction.redact(text)  # before it is cut: half a secret is not recognised
        return text if len(text) <= MAX_DETAIL else text[:MAX_DETAIL] + "…"


_PATH = "/chat/completions"


def _reason(cause: BaseException | None) -> str:
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
