"""Who acts in the code that runs now: the user and the address of the current request.

Signals tell what happened to a row, and not who did it. So our views keep the request in a context
variable for as long as it is answered. A site that also wants to know who changes users in its own
views adds the middleware. Commands have no request, and no actor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from runs.db.users import username_of

from .models import ADDRESS_LENGTH

__all__ = [
    "Actor",
    "address_of",
    "current",
    "current_address",
    "current_user",
    "remember_request",
    "remembered",
]

_GetResponse = Callable[[HttpRequest], HttpResponseBase]

_request: ContextVar[HttpRequest | None] = ContextVar("runs.identity.request", default=None)


@dataclass(frozen=True, slots=True)
class Actor:
    """A user as the audit log names them; without a name it is the command line."""

    id: Any = None
    name: str = ""
    address: str = ""

    @classmethod
    def of(cls, user: Any, address: str = "") -> Actor:
        return cls(user.pk, username_of(user), address)


@contextmanager
def remembered(request: HttpRequest) -> Iterator[None]:
    """Keep ``request`` while it is answered."""
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)


def remember_request(get_response: _GetResponse) -> _GetResponse:
    """Keep each request while it is answered; a middleware."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        with remembered(request):
            return get_response(request)

    return answer


def address_of(request: HttpRequest | None) -> str:
    """Return the client's address: uvicorn has replaced it if a trusted proxy named another."""
    address = request.META.get("REMOTE_ADDR", "") if request is not None else ""
    return str(address or "")[:ADDRESS_LENGTH]


def current_address() -> str:
    """Return the address of the current request; empty without a request."""
    return address_of(_request.get())


def current() -> Actor:
    """Return the user of the current request."""
    request = _request.get()
    # The API's own authentication sets it, too: DRF writes the user through to this request.
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return Actor(address=current_address())
    return Actor.of(user, current_address())


def current_user() -> Any:
    """Return the user of the current request as the database has it; None without one."""
    id = current().id
    return get_user_model()._default_manager.filter(pk=id).first() if id else None
