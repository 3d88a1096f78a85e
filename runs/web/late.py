"""Answers that come after a long wait, and take no thread while they wait.

A view is synchronous and has a thread. It returns a ``LateResponse``, goes through all middleware
like any other answer, and gives its thread back. The handler (runs/asgi) then awaits the
rest on the event loop. Elsewhere, under WSGI or Django's test client, the view waits in its thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from django.http import HttpRequest, HttpResponse

__all__ = ["Answer", "LateResponse", "can_be_late"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known after the wait."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class LateResponse(HttpResponse):
    """An answer whose status and content come later.

    Args:
        decide: called on the event loop; cancelled when the client leaves.
    """

    def __init__(self, decide: Callable[[], Awaitable[Answer]], content_type: str) -> None:
        super().__init__(content_type=content_type)
        self._decide = decide

    async def decide(self) -> None:
        """Wait, and take the answer."""
        answer = await self._decide()
        self.status_code = answer.status
        self.content = answer.content
        # The middleware has set the length of what was empty.
        for name, value in answer.headers.items():
            self.headers[name] = value
        self.headers["Content-Length"] = str(len(answer.content))


def can_be_late(request: HttpRequest) -> bool:
    """Tell whether the handler of this request awaits a ``LateResponse``."""
    return getattr(request, "can_be_late", False)
