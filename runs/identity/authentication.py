"""DRF's authentication by token."""

from __future__ import annotations

from typing import Any

from rest_framework.authentication import TokenAuthentication as _TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed

from . import tokens

__all__ = ["TokenAuthentication"]


class TokenAuthentication(_TokenAuthentication):
    """``Authorization: Token <key>``; ``request.auth`` is a ``tokens.Found``."""

    def authenticate_credentials(self, key: str) -> tuple[Any, Any]:
        # PostgreSQL refuses to look up a NUL, and no key is longer than 64 characters.
        found = tokens.find(key) if key.isalnum() and key.isascii() else None
        if found is None:
            raise AuthenticationFailed("The token is wrong, revoked, or expired.")
        return found.user, found
