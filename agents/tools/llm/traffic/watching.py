"""A request to a model that some SDK makes: its event, its text as it comes, and its usage.

The event has the form of ``call_llm``'s, and the usage counts in the same way. Two things differ,
since only requests are seen here: each try of an SDK is a call of its own, where ``call_llm`` is
one with all its tries, and a request is never changed, so a stream that reports no usage is
estimated. This module knows no transport, and never raises: what it can't read is an HTTP request.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import Callable, Mapping
from typing import Final

import httpx
import httpx2

from agents.exceptions import AgentStopped, CallTimedOut, LLMError
from agents.guard import Call, Guard
from agents.tools.llm.counting import count_reply
from agents.tools.llm.errors import detail_of, without_key

from .answers import Answer, answer_to
from .asked import Asked

__all__ = ["Watching"]

logger = logging.getLogger(__name__)

MAX_ERROR_BYTES: Final = 64 * 1024

#: This side has ended the request, so what it sent is paid for.
_GAVE_UP: Final = (
    *(asyncio.CancelledError, AgentStopped, CallTimedOut, TimeoutError),
    *(httpx.TimeoutException, httpx2.TimeoutException),
)
_KEYS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


class Watching:
    """Looks on at one request, and completes its call.

    Args:
        guard: of the run.
        asked: what the request asks of a model.
        method, host: of the request.
        headers: of the request; keys in them are taken out of errors.
    """

    def __init__(
        self, guard: Guard, asked: Asked, method: str, host: str, headers: Mapping[str, str]
    ) -> None:
        self.call: Call = guard.call("call_llm", asked.model, model=asked.model, host=host)
        self.call.at_end = self._end
        self._guard = guard
        self._asked = asked
        self._method, self._host = method, host
        self._keys = [headers[name].split()[-1] for name in _KEYS if headers.get(name, "").strip()]
        self._status: int | None = None
        self._answer: Answer | None = None
        self._error_body = bytearray()
        self._has_ended = False

    def begin(self, status: int, content_type: str) -> None:
        """Note the head of the answer."""
        self._status = status
        self.call.data["status"] = status
        if 200 <= status < 300:
            label = content_type.partition(";")[0].strip().lower()
            self._answer = answer_to(self._asked, label)

    def feed(self, data: bytes) -> None:
        """Look at some bytes of the body, unpacked."""
        if self._answer is not None:
            self._try(lambda answer: answer.feed(data))
        elif len(self._error_body) < MAX_ERROR_BYTES:
            self._error_body += data[: MAX_ERROR_BYTES - len(self._error_body)]

    def close(self) -> None:
        """Note that the body has come to its end."""
        self._has_ended = True
        self._try(lambda answer: answer.close())

    def _try(self, read: Callable[[Answer], str]) -> None:
        if self._answer is None:
            return
        try:
            text = read(self._answer)
        except Exception:  # of any kind: the SDK must get its answer
            self._answer = None
            contextvars.Context().run(logger.exception, "an answer of a model can't be read")
            return
        if text:
            self._guard.trace.text(self.call.id, text)

    def _end(self, error: BaseException | None) -> BaseException | None:
        """Complete the event; return the error that it is to say."""
        try:
            return self._complete(error)
        except Exception:  # of any kind: the call must end
            contextvars.Context().run(logger.exception, "an answer of a model can't be counted")
            return error

    def _complete(self, error: BaseException | None) -> BaseException | None:
        status, answer, call = self._status, self._answer, self.call
        if status is None:
            if isinstance(error, _GAVE_UP) and call.is_sent is not False:
                count_reply(call, answer_to(self._asked, "").reply())
            return error
        if status >= 400:
            return error or self._refusal(status)
        is_foreign = self._has_ended and (answer is None or not answer.is_understood)
        if answer is None or is_foreign:
            self._be_http()
            return error
        has_failed = error is not None or answer.error is not None
        if answer.has_started or not has_failed or isinstance(error, _GAVE_UP):
            count_reply(call, answer.reply())
        return error or answer.error

    def _be_http(self) -> None:
        call = self.call
        call.tool, call.label = "http", f"{self._method} {self._host}"
        del call.data["model"]
        call.data["method"] = self._method

    def _refusal(self, status: int) -> LLMError:
        try:
            detail = detail_of(json.loads(self._error_body))
        except (ValueError, RecursionError):
            detail = ""
        for key in self._keys or [""]:
            detail = without_key(detail, key)
        said = f": {detail}" if detail else ""
        return LLMError(f"the model's endpoint answered {status}{said}", status=status)
