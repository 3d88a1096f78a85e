"""The limit on the requests of a client."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from runs.conf import conf

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which imports us, if a site's settings name us

__all__ = ["ApiThrottle", "StopThrottle"]

logger = logging.getLogger(__name__)


class ApiThrottle(SimpleRateThrottle):
    """``API_THROTTLE_RATE`` for each user, and for each address of requests without one.

    The cache counts. While the cache is away there is no limit, so that runs can be stopped.
    """

    scope = "api"

    def get_rate(self) -> str | None:
        return conf().api_throttle_rate

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        if _is_a_user(request):
            return f"halting:throttle:user:{_plain(request.user.pk)}"
        return f"halting:throttle:address:{self.get_ident(request)}"

    def get_ident(self, request: Request) -> str:
        # DRF reads X-Forwarded-For itself: a client could invent a new address for each request.
        # Here the address is what uvicorn made of it, by FORWARDED_ALLOW_IPS.
        return str(request.META.get("REMOTE_ADDR", ""))

    def allow_request(self, request: Request, view: APIView) -> bool:
        try:
            return super().allow_request(request, view)
        except Exception as error:  # each cache has errors of its own
            logger.warning("requests are not counted, the cache is away (%s)", type(error).__name__)
            return True

    def wait(self) -> float:
        # DRF returns None after the rate was lowered.
        return super().wait() or 1.0


class StopThrottle(ApiThrottle):
    """Does not count the stops of users: they are never refused."""

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        return None if _is_a_user(request) else super().get_cache_key(request, view)


def _plain(key: object) -> str:
    """Return a user's key as caches take it: it may be a text of any characters and length."""
    text = str(key)
    return text if _PLAIN.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()


_PLAIN = re.compile(r"[\w-]{1,64}", re.ASCII)


def _is_a_user(request: Request) -> bool:
    # A site's UNAUTHENTICATED_USER may be None.
    return request.user is not None and bool(request.user.is_authenticated)
