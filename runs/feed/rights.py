"""Who is watching, and whether they still may.

The same function lets a reader in and is asked again every few seconds: a session that ended, a
token that was deleted, a user who was switched off or lost a permission stops receiving.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser, User
from rest_framework.authtoken.models import Token

from ..models import RunRecord

__all__ = ["RightLost", "Viewer", "find_lost", "identify", "let_in"]

Why = Literal["not_authenticated", "not_found", "gone", "restart", "too_many"]


class RightLost(Exception):
    """A reader may not go on; ``why`` says for which reason."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who watches, by which proof, and what: one run, or the list (``run`` is None).

    ``sees_all``: other people's runs, too.
    """

    user_id: Any
    session_key: str = ""
    token: str = ""
    run: uuid.UUID | None = None
    sees_all: bool = False


class _Look(dict[str, Any]):
    """What a session holds; looking changes nothing.

    ``get_user`` would end a session whose password has changed, and give one that was signed with
    an older SECRET_KEY another key, of which a socket can't tell the browser.
    """

    def flush(self) -> None: ...

    def cycle_key(self) -> None: ...


def identify(*, session_key: str = "", token: str = "") -> User | None:
    """Return the active user whom a session or a token stands for."""
    if token:
        found = Token.objects.select_related("user").filter(key=token).first()
        return found.user if found is not None and found.user.is_active else None
    if not session_key:
        return None
    engine = import_module(settings.SESSION_ENGINE)
    request: Any = SimpleNamespace(session=_Look(engine.SessionStore(session_key).load()))
    user = get_user(request)  # compares the password's hash, as every request does
    return None if isinstance(user, AnonymousUser) else user


def let_in(
    run: uuid.UUID | None, *, session_key: str = "", token: str = "", user: User | None = None
) -> Viewer:
    """Return the viewer of a run, or of the list.

    ``user`` has been identified before, by whoever asks.

    Raises:
        RightLost: nobody is signed in, or there is nothing that they may see.
    """
    user = user or identify(session_key=session_key, token=token)
    if user is None:
        raise RightLost("not_authenticated")
    sees_all = user.has_perm("runs.view_runrecord")
    viewer = Viewer(user.pk, session_key, token, run, sees_all)
    if run is not None and not RunRecord.objects.visible_to(user).filter(pk=run).exists():
        raise RightLost("not_found")
    return viewer


def find_lost(viewers: Collection[Viewer]) -> dict[Viewer, RightLost]:
    """Return those who may not watch any longer, with the reason."""
    lost: dict[Viewer, RightLost] = {}
    users: dict[tuple[str, str], User | None] = {}
    for viewer in viewers:
        proof = (viewer.session_key, viewer.token)
        if proof not in users:
            users[proof] = identify(session_key=viewer.session_key, token=viewer.token)
        user = users[proof]
        if user is None or user.pk != viewer.user_id:
            lost[viewer] = RightLost("not_authenticated")
            continue
        try:
            now = let_in(viewer.run, user=user)
        except RightLost as error:
            is_there = viewer.run and RunRecord.objects.filter(pk=viewer.run).exists()
            lost[viewer] = error if is_there else RightLost("gone")
            continue
        if viewer.run is None and viewer.sees_all and not now.sees_all:
            lost[viewer] = RightLost("not_found")
    return lost
