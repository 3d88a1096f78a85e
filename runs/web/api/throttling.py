"""How often a client may send requests."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.throttling import SimpleRateThrottle

from runs.conf import conf

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which imports us, by the settings

__all__ = ["ApiThrottle", "StopThrottle"]

logger = logging.getLogger(__name__)


class ApiThrottle(SimpleRateThrottle):
    """``API_THROTTLE_RATE`` for each user, and for each address without one.

    The count is kept in the cache. Without the cache there is no limit: what must be stopped can be
    stopped even then.
    """

    scope = "api"

    def get_rate(self) -> str | None:
        return conf().api_throttle_rate

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        if request.user.is_authenticated:
            return f"throttle:user:{request.user.pk}"
        return f"throttle:address:{self.get_ident(request)}"

    def get_ident(self, request: Request) -> str:
        # DRF believes X-Forwarded-For until it is told how many proxies there are; any client
        # could then make itself a new address with each request.
        if api_settings.NUM_PROXIES is None:
            return str(request.META.get("REMOTE_ADDR", ""))
        return str(super().get_ident(request))

    def allow_request(self, request: Request, view: APIView) -> bool:
        try:
            return super().allow_request(request, view)
        except Exception as error:  # each cache has errors of its own
            logger.warning("requests are not counted, the cache is away (%s)", type(error).__name__)
            return True

    def wait(self) -> float:
        # DRF knows no answer when the rate was lowered meanwhile.
        return super().wait() or 1.0


class StopThrottle(ApiThrottle):
    """Refuses no user a stop: neither those who have asked too much else, nor one stop too many."""

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        if request.user.is_authenticated:
            return None  # not counted at all
        return super().get_cache_key(request, view)
