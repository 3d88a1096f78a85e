"""The addresses of ours that depend on the site: under which prefix it includes them, its sign-in.

A site includes ``runs.urls`` under any prefix. Sockets have no urlconf, and the ASGI application
tells requests apart before there is one, so their addresses are derived from the pages'.
"""

from __future__ import annotations

from functools import cache

from django.conf import global_settings, settings
from django.core.signals import setting_changed
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, get_script_prefix, resolve, reverse
from django.utils import translation

__all__ = ["admin_path", "exists", "own_path", "prefix", "sign_in", "socket"]

_RUNS = "halting:api-runs"
_LIST = "admin:runs_runrecord_changelist"


def prefix() -> str:
    """Return what the paths of all our addresses begin with: ``/``, or ``/tools/halting/``.

    It includes the script's own prefix: that of the request, or FORCE_SCRIPT_NAME without one.

    Raises:
        NoReverseMatch: the site (or the request's urlconf) does not include ``runs.urls``.
    """
    return reverse(_RUNS).removesuffix("runs")


def socket(path: str) -> str:
    """Return the address of a socket: ``/tools/halting/ws/runs`` for ``runs``.

    There is one, in each language of ``i18n_patterns``: that which ``own_path`` knows.
    """
    return f"{get_script_prefix()}{_routes(settings.ROOT_URLCONF)[0]}ws/{path}"


def sign_in() -> str:
    """Return the site's own sign-in page, where LOGIN_URL leads; perhaps on another host.

    A new site has no page at Django's default of that setting. Then it is the admin's, if there is
    one.
    """
    if settings.LOGIN_URL != global_settings.LOGIN_URL or _has_page(settings.ROOT_URLCONF):
        return resolve_url(settings.LOGIN_URL)
    return reverse("admin:login")


def exists(name: str) -> bool:
    """Tell whether the site has an address of this name."""
    try:
        reverse(name, settings.ROOT_URLCONF)
    except NoReverseMatch:
        return False
    return True


def own_path(path: str) -> str | None:
    """Return a request's path as runs.urls has it, ``/runs``; None for an address of the site."""
    before = f"/{_routes(settings.ROOT_URLCONF)[0]}"
    return path[len(before) - 1 :] if path.startswith(before) else None


def admin_path(path: str) -> str | None:
    """Return a request's path below the admin's list of runs; None for any other address."""
    before = f"/{_routes(settings.ROOT_URLCONF)[1]}"
    return path[len(before) :] if before != "/" and path.startswith(before) else None


@cache
def _routes(urlconf: str) -> tuple[str, str]:
    """Return the prefix of runs.urls, and the admin's list of runs, without the first slash."""
    script = len(get_script_prefix())
    with translation.override(None):  # not in the language of the first request
        ours = reverse(_RUNS, urlconf)[script:].removesuffix("runs") if exists(_RUNS) else ""
        return ours, reverse(_LIST, urlconf)[script:] if exists(_LIST) else ""


@cache
def _has_page(urlconf: str) -> bool:
    """Tell whether there is a page at Django's default of LOGIN_URL, or nothing better."""
    try:
        resolve(global_settings.LOGIN_URL, urlconf)
    except Resolver404:
        return not exists("admin:login")
    return True


def _forget(*, setting: str, **_: object) -> None:
    if setting == "ROOT_URLCONF":
        _routes.cache_clear()
        _has_page.cache_clear()


setting_changed.connect(_forget, dispatch_uid="runs.web.addresses")
