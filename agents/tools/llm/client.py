"""Calls to a model: guarded, shown as they come, counted, and finished once they have started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from agents.exceptions import AgentError, LLMError
from agents.guard import Guard
from agents.tools.http.pools import Transports
from agents.tools.http.proxies import hide_secrets
from agents.values import jsonable, redaction

from .counting import count_reply
from .options import address_problem, header_problem, key_problem, pair_problem
from .reply import LLMReply, PartialReply, TokenUsage, ToolCall, characters_of
from .stand_in import STAND_IN, StandIn

__all__ = ["LLMReply", "Model", "TokenUsage", "ToolCall", "call_llm"]

OPENAI_URL = "https://api.openai.com/v1"
STAND_IN_URL = "http://stand-in.invalid/v1"  # never looked up: the stand-in has no network


class Model:
    """The endpoint that the runs of one agent loop share.

    Args:
        base_url: any endpoint that speaks the OpenAI protocol, with its ``/v1``; "" is OpenAI's.
        api_key: "" sends none. With neither address nor key the model is the stand-in.
        default_model: used when a call names none.
        timeout: seconds that the endpoint may be silent, also between two pieces of a reply.
        total_timeout: seconds that a call may take in all, retries included.
        max_retries: how often the SDK repeats a request that the endpoint refused for the moment.
        proxy_url: the proxy through which it is reached, as http://user:password@host:port; "" is
            none. The environment's proxies are ignored.
        transports: connections to share; without it, and with a proxy, the model has its own.
        transport: carries the requests instead of the network, such as a faster ``StandIn``.

    Attributes:
        is_stand_in: no endpoint was configured.

    Raises:
        ValueError: the address, the key or the proxy can't be used.
    """

    def __init__(
        self,
        base_url: str = "",
        api_key: str = "",
        default_model: str = "",
        *,
        timeout: float = 120.0,
        total_timeout: float = 600.0,
        max_retries: int = 2,
        proxy_url: str = "",
        transports: Transports | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        from .endpoint import Endpoint  # imports the SDK, which takes half a second

        base_url, api_key = base_url.strip(), api_key.strip()
        for what, problem in (
            ("the API key", key_problem(api_key)),
            ("the model's address", address_problem(base_url) or pair_problem(base_url, api_key)),
        ):
            if problem:
                raise ValueError(f"{what} {problem}")
        redaction.add_secret(api_key)
        hide_secrets(base_url)
        self.is_stand_in = not base_url and not api_key
        self.default_model = STAND_IN if self.is_stand_in else default_model
        self.total_timeout = total_timeout
        self._own_transports: Transports | None = None
        if self.is_stand_in:
            base_url, transport = STAND_IN_URL, transport or StandIn()
        if transport is None:
            if transports is None or proxy_url:
                transports = self._own_transports = Transports(model_proxy_url=proxy_url)
            transport = transports.httpx2_async()
        url = base_url or OPENAI_URL
        self._endpoint = Endpoint(
            url, api_key, transport, timeout, max_retries, is_proxied=bool(proxy_url)
        )

    def name(self, asked: str | None = None) -> str:
        """Return the name of the model that a call goes to; ``AgentError`` if there is none."""
        name = STAND_IN if self.is_stand_in else asked or self.default_model
        if not name:
            raise AgentError("no model was named, and no default model is set")
        return name

    async def converse(
        self, guard: Guard, call: str, body: dict[str, Any], reply: PartialReply
    ) -> None:
        """Send a request as a part of the guarded ``call``, and add what comes to ``reply``.

        Raises: as ``Endpoint.converse``; also ``LLMError`` after ``total_timeout``.
        """

        def show(piece: str) -> None:
            if piece:
                guard.trace.text(call, piece)

        try:
            async with asyncio.timeout(self.total_timeout):
                await self._endpoint.converse(body, reply, show)
        except TimeoutError as error:
            if reply.is_whole:  # only the end of the body was still to come
                return
            raise LLMError(f"the model took more than {self.total_timeout:g} s") from error

    async def aclose(self) -> None:
        await self._endpoint.aclose()
        if self._own_transports is not None:
            await self._own_transports.aclose()


async def call_llm(
    guard: Guard,
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    *,
    model_name: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **parameters: Any,
) -> LLMReply:
    """See ``Tools.call_llm``. A reply that broke off, or was cut, counts with an estimate."""
    name = model.name(model_name)
    body = _body(name, messages, tools, parameters)
    with guard.call("call_llm", name, model=name) as call:
        partial = PartialReply(name, characters_of(body["messages"]))

        def record(reply: LLMReply) -> None:
            count_reply(call, reply)

        async def work() -> LLMReply:
            call.is_sent = None
            try:
                await model.converse(guard, call.id, body, partial)
                return partial.finish()
            except BaseException as error:
                # Such a request is paid for: at least what was sent.
                if partial.has_started or (_gave_up(error) and call.is_sent is not False):
                    record(partial.so_far())
                raise

        call.is_sent = False  # if it is cut before it begins
        return await call.uninterrupted(work(), record)


def _gave_up(error: BaseException | None) -> bool:
    """Tell whether this side has ended the request: it was cut, or it took too long."""
    while error is not None:
        if isinstance(error, asyncio.CancelledError | TimeoutError | httpx2.TimeoutException):
            return True
        error = error.__cause__  # of an LLMError, and of the SDK's error
    return False


def _body(
    name: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the request's body, or raise ``AgentError`` if the endpoint could not take it.

    As in a result of an agent, NUL and lone surrogates in texts become U+FFFD.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise AgentError(
            'call_llm() takes a list of messages, such as [{"role": "user", "content": "..."}],'
            f" not {type(messages).__name__}"
        )
    if not messages:
        raise AgentError("call_llm() takes at least one message")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise AgentError(
                f"message {place} is not an object with a role, such as"
                ' {"role": "user", "content": "..."}'
            )
    options = {name: parameters[name] for name in _NOT_SENT if name in parameters}
    for header, value in dict(options.get("extra_headers") or {}).items():
        if problem := header_problem(header, value):
            raise AgentError(f"extra_headers[{header!r}] {problem}")
    body = {"stream": True, **parameters, "model": name, "messages": list(messages)}
    if tools:
        body["tools"] = list(tools)
    try:
        sent = {name: value for name, value in body.items() if name not in _NOT_SENT}
        checked: dict[str, Any] = jsonable.dump(sent, "request")
    except ValueError as error:
        raise AgentError(f"the request to the model is not JSON: {error}") from error
    return {**checked, **options}


_NOT_SENT = ("timeout", "extra_headers")  # they are for the SDK
