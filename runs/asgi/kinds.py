"""The kinds of requests that the handler keeps apart: probes, stops, and those with a password."""

from __future__ import annotations

import re
from typing import Any

from django.core.handlers.asgi import ASGIRequest

from runs.db import lending

__all__ = ["ProbeRequest", "has_password", "new_request", "reserve_for"]

_PROBES = re.compile(r"/(?:health/(?:live|ready)|metrics)/?")
# The stops, of the API, the pages and the admin, by the connections that they may use.
_STOPS = {
    lending.STOPS: re.compile(
        r"/runs/[^/]+/stop/?|/app/runs/[^/]+/stop|/admin/runs/runrecord/[^/]+/stop/"
    ),
    lending.STOPS_OF_MANY: re.compile(r"/runs/stop/?|/admin/runs/runrecord/stop/"),
}
# Where a POST has a password to check.
_PASSWORDS = re.compile(
    r"/api-token/?|/(?:accounts|admin)/(?:login|password_change)/|/admin/.*/password/"
)


class _Request(ASGIRequest):
    """A request that is read as UTF-8, whatever ``charset`` its Content-Type names.

    Django would decode the query string and forms by it: garbled, or with an exception before any
    view for a codec that is not for text (``base64``). Its answer may come late (runs/web/late.py).
    """

    can_be_late = True

    @property
    def encoding(self) -> str | None:
        return None  # Django takes DEFAULT_CHARSET then

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        pass


class ProbeRequest(_Request):
    """A request of a balancer, an orchestrator or Prometheus: its Host is not checked.

    They reach a process by its address, which is rightly not in ALLOWED_HOSTS, and no answer to
    them depends on the Host.
    """

    urlconf = "runs.asgi.probe_urls"  # Django reads it from each request

    def get_host(self) -> str:
        return "probe"


def new_request(scope: Any, body: Any) -> ASGIRequest:
    is_probe = _PROBES.fullmatch(scope["path"])
    return (ProbeRequest if is_probe else _Request)(scope, body)


def has_password(method: str | None, path: str) -> bool:
    """Tell whether a request has a password to check."""
    return method == "POST" and _PASSWORDS.fullmatch(path) is not None


def reserve_for(method: str | None, path: str) -> lending.Reserve | None:
    """Return the connections that a request may use if it is a stop."""
    if method != "POST":
        return None
    return next((reserve for reserve, paths in _STOPS.items() if paths.fullmatch(path)), None)
