"""Sessions end when they are not used.

Django counts ``SESSION_COOKIE_AGE`` from the last time that a session was stored: without this
module, from the sign-in. Storing it at each request would make each request slower, stops included.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

__all__ = ["LONGEST_SECONDS", "begin", "slide"]

_GetResponse = Callable[[HttpRequest], HttpResponseBase]

LONGEST_SECONDS = 14 * 24 * 60 * 60  # from the sign-in, however much a session is used
_KEY = "used"  # when it was signed in, and when it was stored last
_SHARE = 20  # it is stored after a 20th of its idle time


def slide(get_response: _GetResponse) -> _GetResponse:
    """Prolong the session of a user who reads something; a middleware.

    Only for GET: a stop never waits for it, and a page that is open reads.
    """

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        # Without a query: Django keeps the user here if the session was asked for it. While the
        # database is away it was asked in vain, and asking again would only take longer.
        user = getattr(request, "_cached_user", None)
        if request.method == "GET" and user is not None and user.is_authenticated:
            _use(request)
        return response

    return answer


def begin(request: HttpRequest | None) -> None:
    """Start counting at the sign-in; Django stores the session after it anyway."""
    session = getattr(request, "session", None)
    if session is not None:  # a site may sign users in without one
        now = time.time()
        session[_KEY] = [now, now]


def _use(request: HttpRequest) -> None:
    now = time.time()
    started, stored = request.session.get(_KEY) or (now, 0)
    if now - stored < settings.SESSION_COOKIE_AGE / _SHARE:
        return
    left = started + LONGEST_SECONDS - now
    request.session[_KEY] = [started, now]
    request.session.set_expiry(max(1, int(min(left, settings.SESSION_COOKIE_AGE))))
