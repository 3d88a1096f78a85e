"""The addresses of ours that depend on the site: under which prefix it includes them, its sign-in.

A site includes ``runs.urls`` under any prefix. Sockets have no urlconf, so their addresses are
derived from the pages'.
"""

from __future__ import annotations

from django.conf import settings
from django.shortcuts import resolve_url
from django.urls import reverse

__all__ = ["prefix", "sign_in", "socket"]

_HOME = "app/"  # in runs/urls.py


def prefix() -> str:
    """Return what the paths of all our addresses begin with: ``/``, or ``/tools/halting/``.

    It includes the script's own prefix: that of the request, or FORCE_SCRIPT_NAME without one.

    Raises:
        NoReverseMatch: the site (or the request's urlconf) does not include ``runs.urls``.
    """
    return reverse("halting:page-home").removesuffix(_HOME)


def socket(path: str) -> str:
    """Return the address of a socket: ``/tools/halting/ws/runs`` for ``runs``."""
    return f"{prefix()}ws/{path}"


def sign_in() -> str:
    """Return the site's own sign-in page, where LOGIN_URL leads; perhaps on another host."""
    return resolve_url(settings.LOGIN_URL)
