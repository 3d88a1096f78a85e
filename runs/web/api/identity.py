"""The views that trade a password for a token, and that list and revoke tokens."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth import authenticate
from django.http import Http404
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.exceptions import AuthenticationFailed, ValidationError
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from runs.identity import actors, tokens
from runs.identity.actors import Actor
from runs.identity.models import ApiToken

from . import schema
from .requests import bodies, inputs, parameters
from .views import ApiView, read_id

__all__ = ["OneTokenView", "TokenView", "TokensView", "token_as_dict"]


class TokenView(ApiView):
    authentication_classes: Any = []
    permission_classes: Any = [AllowAny]

    def get_authenticate_header(self, request: Request) -> str:
        return "Token"

    @schema.operation(
        "obtain_token",
        "Get a token",
        "identity",
        {200: schema.TokenSerializer},
        errors=[413, 415],
        wrong=["invalid_json", "invalid_input"],
        auth=[],
        request=inputs.CredentialsSerializer,
        examples=[
            OpenApiExample("Demo", {"username": "demo", "password": "demo"}, request_only=True),
            OpenApiExample(
                "With a name and an end",
                {
                    "username": "demo",
                    "password": "demo",
                    "name": "nightly report",
                    "expires_seconds": 86400,
                },
                request_only=True,
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Trade a username and a password for a new token. Keep it: it can't be read again.

        A token ends when its time is over, when it is revoked, with the user's password, and with
        the user. After some wrong passwords the next try has to wait: 429, with `Retry-After`.
        """
        given = bodies.read(request, inputs.CredentialsSerializer)
        name, seconds = given.pop("name", ""), given.pop("expires_seconds", None)
        user: Any = authenticate(request._request, **given)
        if user is None:
            raise AuthenticationFailed("Username or password is wrong, or the user is not active.")
        by = Actor.of(user, actors.address_of(request._request))
        try:
            key, _ = tokens.create(user, name=name, seconds=seconds, by=by)
        except tokens.TooManyTokens as error:
            message = f"You have {tokens.MOST_PER_USER} tokens: revoke one that you don't need."
            raise ValidationError({"name": [message]}) from error
        return Response({"token": key})


class TokensView(ApiView):
    @schema.operation(
        "list_tokens", "List your tokens", "identity", {200: schema.TokenListSerializer}
    )
    def get(self, request: Request) -> Response:
        """Your own tokens that are good, the newest first, without the tokens themselves."""
        parameters.refuse_unknown(request, set())
        found = tokens.live_of(self.user)
        return Response({"results": [token_as_dict(token, self.token) for token in found]})


class OneTokenView(ApiView):
    @schema.operation(
        "revoke_token",
        "Revoke a token",
        "identity",
        {204: OpenApiResponse(description="It is good no more.")},
        errors=[403, 404],
        parameters=[OpenApiParameter("id", uuid.UUID, OpenApiParameter.PATH)],
    )
    def delete(self, request: Request, id: str) -> Response:
        """End one of your tokens. The feeds that were opened with it end within five seconds."""
        if not tokens.revoke(self.user, read_id(id)):
            raise Http404
        return Response(status=204)


def token_as_dict(token: ApiToken, current: ApiToken | None = None) -> dict[str, Any]:
    """Return what the user may see of a token."""
    return {
        "id": str(token.pk),
        "name": token.name,
        "begins_with": token.hint,
        "created_at": _instant(token.created_at),
        "expires_at": _instant(token.expires_at),
        "last_used_at": _instant(token.last_used_at),
        "last_address": token.last_address,
        "is_current": token == current,
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()
