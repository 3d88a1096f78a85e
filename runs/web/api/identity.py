"""The view that trades a password for a token."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import authenticate
from drf_spectacular.utils import OpenApiExample
from rest_framework.authtoken.models import Token
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response

from . import schema
from .requests import bodies, inputs
from .views import ApiView

__all__ = ["TokenView"]


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
            OpenApiExample("Demo", {"username": "demo", "password": "demo"}, request_only=True)
        ],
    )
    def post(self, request: Request) -> Response:
        """Trade a username and a password for the user's token, which is always the same."""
        credentials = bodies.read(request, inputs.CredentialsSerializer)
        user = authenticate(request._request, **credentials)
        if user is None:
            raise AuthenticationFailed("Username or password is wrong, or the user is not active.")
        token, _ = Token.objects.get_or_create(user=user)
        return Response({"token": token.key})
