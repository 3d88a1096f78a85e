"""The door of the sockets: it admits or refuses a handshake.

Any page in the world can open a socket, and the browser adds the session's cookie. So with a
session the Origin must be this site's. A program sends a token, which no foreign page can make a
browser send. So with a token the Origin may be absent; if there is one, it must be this site's.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from channels.security.websocket import OriginValidator
from django.conf import settings
from django.http import parse_cookie
from django.http.request import validate_host

from runs.db.transactions import is_away
from runs.wording.time import is_time_zone

from . import feed
from .api.requests.parameters import SWITCHES
from .feed import Cursor, InvalidCursor, RightLost, View, Viewer, rights
from .feed.frames import to_json

__all__ = ["Query", "Refused", "enter", "not_allowed", "refuse", "refuse_unknown_address"]

_Send = Callable[[dict[str, Any]], Awaitable[None]]


class Refused(Exception):
    """The handshake is answered with an HTTP error instead."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class Query:
    """The query of a socket's address, with no other parameters than ``names``.

    Raises:
        Refused: here and from each method, with what is wrong.
    """

    def __init__(self, scope: Mapping[str, Any], names: Collection[str]) -> None:
        text = scope.get("query_string", b"").decode("ascii", "replace")
        self._given = dict(parse_qsl(text, keep_blank_values=True))
        for name in self._given:
            if name not in names:
                raise _invalid(f"{name[:50]}: there is no such parameter.")

    def cursor(self, run: uuid.UUID) -> Cursor:
        """Return where to start: at the first event by default."""
        if "after" in self._given and "cursor" in self._given:
            raise _invalid("after, cursor: one of them is enough.")
        name = "cursor" if "cursor" in self._given else "after"
        try:
            return Cursor.read(self._given.get(name) or "0", run)
        except InvalidCursor as error:
            raise _invalid(f"{name}: {error}.") from error

    def is_tree(self) -> bool:
        value = self._given.get("tree", "0").lower()
        if value not in SWITCHES:
            raise _invalid("tree: 1 or 0 is expected.")
        return SWITCHES[value]

    def view(self) -> View:
        name = self._given.get("view", "")
        if name not in {"", "page"}:
            raise _invalid("view: page is the only one.")
        zone = self._given.get("tz", "")
        return View(name == "page", zone if is_time_zone(zone) else "")


async def enter(scope: Mapping[str, Any], run: uuid.UUID | None) -> Viewer:
    """Return the viewer who opens a socket for ``run``, or for the list.

    Raises:
        Refused: the user may not see the run, or the page is another site's.
    """
    headers = {name.lower(): value for name, value in scope["headers"]}
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    origin = headers.get(b"origin", b"").decode("latin-1")
    own = f"{_scheme(scope)}://{headers.get(b'host', b'').decode('latin-1')}"
    if origin and not _is_ours(origin, own):
        raise Refused(403, "permission_denied", "Sockets are not open to other sites.")
    if authorization:
        kind, _, token = authorization.partition(" ")
        proof = {"token": token.strip()}
        if kind.lower() != "token" or not proof["token"].isalnum():
            raise not_allowed()
    else:
        if not origin:
            raise Refused(403, "permission_denied", "With a session, an Origin is needed.")
        proof = {"session_key": _session_key(headers.get(b"cookie", b"").decode("latin-1"))}
    hub = feed.get_hub()
    try:
        return await hub.read(rights.let_in, run, **proof)
    except RightLost as error:
        raise not_allowed() from error
    except Exception as error:
        if not is_away(error):
            raise
        raise Refused(503, "unavailable", "The database does not answer; try again.") from error


async def refuse(scope: Mapping[str, Any], send: _Send, why: Refused) -> None:
    """Answer a handshake with an error in the API's shape, or, if the server can't, with 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    body = to_json({"code": why.code, "detail": why.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "websocket.http.response.start", "status": why.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def refuse_unknown_address(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve the addresses of sockets that do not exist, as an ASGI application."""
    await receive()
    await refuse(scope, send, not_allowed())


def not_allowed() -> Refused:
    """Return the one answer for a missing run, a hidden run and no user: it reveals nothing."""
    return Refused(
        HTTPStatus.FORBIDDEN, "permission_denied", "There is nothing here that you may see."
    )


def _invalid(detail: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "invalid_filter", detail)


def _session_key(cookies: str) -> str:
    key = parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME, "")
    return key if key.isalnum() else ""


def _scheme(scope: Mapping[str, Any]) -> str:
    """Return the scheme of the site's pages: a trusted proxy's word, or this connection's own."""
    return "https" if scope.get("scheme") in {"wss", "https"} else "http"


def _is_ours(origin: str, own: str) -> bool:
    """Tell whether an Origin is this site's ``own``, or one that Django is told to trust.

    Scheme, host and port must be equal: what answers at http:// may be another program, or a person
    in between.
    """
    trusted = [origin.replace("://*.", "://.") for origin in settings.CSRF_TRUSTED_ORIGINS]
    try:
        parts = urlsplit(origin)
        if OriginValidator(None, trusted).validate_origin(parts):
            return True
        if not OriginValidator(None, [own]).validate_origin(parts):
            return False
    except ValueError:
        return False
    name = parts.hostname or ""
    return validate_host(f"[{name}]" if ":" in name else name, _allowed_hosts())


def _allowed_hosts() -> list[str]:
    if settings.DEBUG and not settings.ALLOWED_HOSTS:
        return [".localhost", "127.0.0.1", "[::1]"]  # as HttpRequest.get_host() does
    return list(settings.ALLOWED_HOSTS)
