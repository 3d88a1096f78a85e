"""Errors of agents, and the one thing that is not an error: being stopped.

    BaseException
    ├── AgentStopped            a stop was requested, and a guard refused
    └── Exception
        └── AgentError          code: the stable word that ends up in the run's ``error.code``
            ├── AgentNotFound       no agent of that name is registered
            ├── InvalidInput        the input does not fit the schema; fields: path -> messages
            ├── InvalidOutput       the agent returned what its schema or JSON can't hold
            ├── SubAgentFailed      a called agent ended in an error of its own
            ├── SubAgentStopped     a called agent was stopped, its caller was not
            ├── AgentCallTooDeep    agents calling agents without end
            ├── QuotaExceeded       the host refuses to queue or store more for the run's owner
            ├── RunIsOver           a tool was used after the agent had returned
            ├── CallTimedOut        a call took longer than the run's ``call_seconds``, and was cut
            ├── LLMError            the model's endpoint refused, failed or could not be reached
            ├── AddressRefused      a URL leads to an address that may not be visited
            ├── InvalidAddress      a URL is none that can be visited
            ├── BodyRefused         an answer's body can't be unpacked, or has no bound
            └── DocumentError       a document can't be fetched or read

``AgentStopped`` is a BaseException on purpose: ``except Exception`` in an agent, in an SDK's retry
loop or in ``asyncio`` itself must not swallow it.

What ``tools.http`` refuses is an error of httpx (and of httpx2) as well, so that code that expects
these catches it. (mypy: the two libraries' errors each refer to a request of their own library.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import httpx
import httpx2

__all__ = [
    "AddressRefused",
    "AgentCallTooDeep",
    "AgentError",
    "AgentNotFound",
    "AgentStopped",
    "BodyRefused",
    "CallTimedOut",
    "DocumentError",
    "InvalidAddress",
    "InvalidInput",
    "InvalidOutput",
    "LLMError",
    "QuotaExceeded",
    "RunIsOver",
    "SubAgentFailed",
    "SubAgentStopped",
]


class AgentStopped(BaseException):
    """The run was asked to stop, and this call was refused.

    Let it pass. Tidy up in ``finally``, and save what you have inside ``cleanup()``. Swallowing it
    only delays the stop to the next guard.
    """

    # LangChain's agenerate() gathers replies and errors. It takes what is no Exception for a reply,
    # and reports that reply's parts before it raises what it got. Without these two that is an
    # AttributeError, and an agent with retries or fallbacks goes on. They can go when it no longer
    # reads them: langchain_core/language_models/chat_models.py (1.8) of
    # https://github.com/langchain-ai/langchain
    generations: ClassVar[tuple[()]] = ()
    llm_output: ClassVar[None] = None


class AgentError(Exception):
    """An agent or a tool raises it to end the run as ``error``, with a code of its own."""

    code: str = "agent_error"


class AgentNotFound(AgentError):
    code = "agent_not_found"


class InvalidInput(AgentError):
    """The input does not fit the agent's schema.

    ``fields`` maps a path (``input``, ``input.words``, ``input.documents.0``) to its messages.
    """

    code = "invalid_input"

    def __init__(self, message: str, fields: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(message)
        self.fields: dict[str, list[str]] = {k: list(v) for k, v in (fields or {}).items()}


class InvalidOutput(AgentError):
    code = "invalid_output"


class _SubAgentError(AgentError):
    def __init__(self, message: str, *, agent: str, run: str) -> None:
        super().__init__(message)
        self.agent = agent
        self.run = run


class SubAgentFailed(_SubAgentError):
    """A called agent ended in an error; ``error`` is that error as its record has it."""

    code = "sub_agent_failed"

    def __init__(
        self, message: str, *, agent: str, run: str, error: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message, agent=agent, run=run)
        self.error = dict(error or {})


class SubAgentStopped(_SubAgentError):
    """A called agent was stopped, and only that one: its caller may continue."""

    code = "sub_agent_stopped"


class AgentCallTooDeep(AgentError):
    code = "agent_call_too_deep"


class QuotaExceeded(AgentError):
    """The run's owner has used up a quota of the host, so a tool refused; nothing was written.

    ``code`` says which quota (``quota_stored``, say), ``used`` and ``allowed`` how much of it.
    """

    code = "quota_exceeded"

    def __init__(self, message: str, *, code: str, used: int, allowed: int) -> None:
        super().__init__(message)
        self.code = code
        self.used = used
        self.allowed = allowed


class RunIsOver(AgentError):
    """A tool was used after its agent had returned (by a task or thread that it left running)."""

    code = "run_is_over"


class CallTimedOut(  # type: ignore[misc]
    AgentError, httpx.TimeoutException, httpx2.TimeoutException
):
    """A guarded call took longer than the run's ``call_seconds``; the run may continue."""

    code = "call_timed_out"


class LLMError(AgentError):
    """The model's endpoint refused, failed, or could not be reached, after the SDK's retries.

    ``status`` is the HTTP status, None when there was no answer; ``detail`` is the provider's own
    message.
    """

    code = "llm_error"

    def __init__(self, message: str, *, status: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class AddressRefused(AgentError, httpx.ConnectError, httpx2.ConnectError):  # type: ignore[misc]
    """A URL leads, by name or by redirect, to a private, loopback or otherwise special address.

    The message has no address that a name was resolved to: the owner of a run may not know it.
    """

    code = "address_refused"


class InvalidAddress(  # type: ignore[misc]
    AgentError,
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
    httpx2.InvalidURL,
    httpx2.UnsupportedProtocol,
):
    """A URL is none that can be visited: its port, its host or its form is impossible."""

    code = "invalid_address"


class BodyRefused(AgentError, httpx.DecodingError, httpx2.DecodingError):  # type: ignore[misc]
    """An answer's body is too large, packed more than once, or can't be unpacked."""

    code = "body_refused"


class DocumentError(AgentError):
    code = "document_error"
