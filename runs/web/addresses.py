"""Where this site has Halting's addresses, and its own sign-in.

A site includes runs.urls under any prefix. Sockets have no urlconf: they are below the same prefix.
"""

from __future__ import annotations

from functools import cache

from django.conf import settings
from django.core.signals import setting_changed
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, get_script_prefix, reverse

__all__ = ["admin_path", "is_included", "own_path", "prefix", "sign_in", "socket"]


def prefix() -> str:
    """Return what pages and programs write before ``runs``, ``app/`` and ``ws/runs``.

    It is "/", or as "/tools/halting/", and starts with the script name.
    """
    return get_script_prefix() + _routes(settings.ROOT_URLCONF)[0]


def own_path(path: str) -> str | None:
    """Return a request's path as runs.urls has it, "/runs"; None for an address of the site."""
    before = f"/{_routes(settings.ROOT_URLCONF)[0]}"
    return path[len(before) - 1 :] if path.startswith(before) else None


def admin_path(path: str) -> str | None:
    """Return a request's path below the admin's list of runs; None for any other address."""
    before = f"/{_routes(settings.ROOT_URLCONF)[1]}"
    return path[len(before) :] if before != "/" and path.startswith(before) else None


def socket(path: str) -> str:
    """Return the address of a socket: ``/tools/halting/ws/runs`` for ``runs``."""
    return f"{prefix()}ws/{path}"


def sign_in() -> str:
    """Return the site's own sign-in page, where LOGIN_URL leads; perhaps on another host."""
    return resolve_url(settings.LOGIN_URL)


def is_included() -> bool:
    """Tell whether the site's addresses have runs.urls."""
    return _has("halting:api-runs")


@cache
def _routes(urlconf: str) -> tuple[str, str]:
    """Return the prefix of runs.urls, and the admin's list of runs, without the first slash."""
    script = len(get_script_prefix())
    ours = (
        reverse("halting:api-runs", urlconf)[script:].removesuffix("runs") if is_included() else ""
    )
    name = "admin:runs_runrecord_changelist"
    return ours, reverse(name, urlconf)[script:] if _has(name) else ""


def _has(name: str) -> bool:
    try:
        reverse(name, settings.ROOT_URLCONF)
    except NoReverseMatch:
        return False
    return True


def _forget(*, setting: str, **_: object) -> None:
    if setting == "ROOT_URLCONF":
        _routes.cache_clear()


setting_changed.connect(_forget, dispatch_uid="runs.web.addresses")
