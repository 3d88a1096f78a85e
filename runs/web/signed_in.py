"""Pages for people who are signed in."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.utils.functional import lazy

from . import addresses

__all__ = ["signed_in_only"]

#: As ``login_required``, with the sign-in of ``addresses.sign_in``. It decorates a view.
signed_in_only = login_required(login_url=lazy(addresses.sign_in, str)())
