"""What a view of ours needs around it: a site has its own middleware, and not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver

from runs.identity import actors

from . import error_pages

__all__ = ["self_contained", "with_self_contained_views"]

_View = Callable[..., HttpResponseBase]
_Pattern = TypeVar("_Pattern", bound=URLPattern | URLResolver)


def with_self_contained_views(patterns: Iterable[_Pattern]) -> list[_Pattern]:
    """Return ``patterns`` with self-contained views; those of included urlconfs, too."""
    found = list(patterns)
    for pattern in found:
        if isinstance(pattern, URLResolver):
            with_self_contained_views(pattern.url_patterns)
        else:
            pattern.callback = self_contained(pattern.callback)
    return found


def self_contained(view: _View) -> _View:
    """Wrap a view so that it works in any site; what DRF and decorators have set on it stays.

    The audit log learns who acts. A missing thing, a refused sign-in and an absent database are
    answered with our own pages. Each action commits by itself, whatever ATOMIC_REQUESTS says: a
    stop is delivered after its commit, and a request may wait for what it has caused.
    """

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with actors.remembered(request):
            try:
                return view(request, *args, **kwargs)
            except Exception as error:
                response = error_pages.answer_to(request, error)
                if response is None:
                    raise
                return response

    for alias in settings.DATABASES:
        transaction.non_atomic_requests(using=alias)(answer)
    return answer
