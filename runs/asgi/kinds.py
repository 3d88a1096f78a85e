"""The kinds of requests that are kept apart: probes, stops, and those with a password."""

from __future__ import annotations

import re

from django.core.handlers.asgi import ASGIRequest

from runs.db import lending
from runs.web import addresses
from runs.web.error_pages import API_PREFIXES, PROBE_URLCONF

__all__ = ["ProbeRequest", "Request", "has_password", "is_own", "is_probe", "reserve_for"]

_PROBES = re.compile(r"/(?:health/(?:live|ready)|metrics)/?")
# The stops by the connections that they may use: of the API and the pages, and below the admin's
# list of runs.
_STOPS = {
    lending.STOPS: (
        re.compile(r"/runs/[^/]+/stop/?|/app/runs/[^/]+/stop"),
        re.compile(r"[^/]+/stop/"),
    ),
    lending.STOPS_OF_MANY: (re.compile(r"/runs/stop/?"), re.compile(r"stop/")),
}
_OWN = re.compile(rf"/(?:{API_PREFIXES}|app(?:/|$))")
# Where a POST has a password to check: by the API, and where Django's own views usually are.
_TOKEN = re.compile(r"/api-token/?")
_PASSWORDS = re.compile(r"/(?:accounts|admin)/(?:login|password_change)/|/admin/.*/password/")


class Request(ASGIRequest):
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


class ProbeRequest(Request):
    """A request of a balancer, an orchestrator or Prometheus: its Host is not checked.

    They reach a process by its address, which is rightly not in ALLOWED_HOSTS, and no answer to
    them depends on the Host.
    """

    urlconf = PROBE_URLCONF  # Django reads it from each request

    def get_host(self) -> str:
        return "probe"


def is_probe(own: str | None) -> bool:
    """Tell whether a program asks this process about itself, by ``addresses.own_path``."""
    return own is not None and _PROBES.fullmatch(own) is not None


def is_own(path: str, own: str | None) -> bool:
    """Tell whether Halting's handler is to answer a path, and not the site's."""
    is_ours = own is not None and _OWN.match(own) is not None
    return is_ours or addresses.admin_path(path) is not None


def has_password(method: str | None, path: str) -> bool:
    """Tell whether a request has a password to check."""
    if method != "POST":
        return False
    own = addresses.own_path(path)
    is_for_token = own is not None and _TOKEN.fullmatch(own) is not None
    return is_for_token or _PASSWORDS.fullmatch(path) is not None


def reserve_for(method: str | None, path: str) -> lending.Reserve | None:
    """Return the connections that a request may use if it is a stop."""
    if method != "POST":
        return None
    own, below_admin = addresses.own_path(path), addresses.admin_path(path)
    for reserve, (paths, admin_paths) in _STOPS.items():
        if own is not None and paths.fullmatch(own):
            return reserve
        if below_admin is not None and admin_paths.fullmatch(below_admin):
            return reserve
    return None
