"""Who is watching, and whether they still may.

The same rule lets a reader in and is checked again every few seconds: after a session has ended, a
token was revoked or has expired, or a user was deactivated, has another password, or lost a
permission, the feed ends.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser, User

from runs.db.users import may
from runs.identity import tokens
from runs.models import SEE_ALL, RunQuerySet, RunRecord, Scope

__all__ = ["RightLost", "Viewer", "Why", "find_lost", "identify", "let_in"]

Why = Literal["not_authenticated", "not_found", "gone", "restart", "too_many", "unread"]


class RightLost(Exception):
    """A reader may not continue; ``why`` gives the reason, and ``detail`` says more to people."""

    def __init__(self, why: Why, detail: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.detail = detail or _DETAILS[why]


_DETAILS: dict[Why, str] = {
    "not_authenticated": "You are not signed in any longer.",
    "not_found": "You may not see this any longer.",
    "gone": "The run was deleted.",
    "restart": "The server restarts.",
    "too_many": "You have too many feeds open.",
    "unread": "You left too much unread; continue where you were.",
}


@dataclass(frozen=True, slots=True)
class Viewer(Scope):
    """Who watches, by which proof, and what: one run, or the list (``run`` is None).

    ``is_trusted``: the command line, which needs no proof.
    """

    session_key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    run: uuid.UUID | None = None
    is_trusted: bool = False


class _ReadOnly(dict[str, Any]):
    """The data of a session.

    ``get_user`` would end a session whose password has changed, and give one that was signed with
    an older SECRET_KEY another key, which a socket can't send to the browser.
    """

    def flush(self) -> None: ...

    def cycle_key(self) -> None: ...


def identify(*, session_key: str = "", token: str = "") -> User | None:
    """Return the active user whom a session or a token stands for."""
    if token:
        found = tokens.find(token)
        return found.user if found is not None else None
    if not session_key:
        return None
    engine = import_module(settings.SESSION_ENGINE)
    request: Any = SimpleNamespace(session=_ReadOnly(engine.SessionStore(session_key).load()))
    user = get_user(request)  # compares the password's hash, as every request does
    return None if isinstance(user, AnonymousUser) else user


def let_in(
    run: uuid.UUID | None, *, session_key: str = "", token: str = "", user: User | None = None
) -> Viewer:
    """Return the viewer of a run, or of the list.

    ``user`` has been identified before, by the caller.

    Raises:
        RightLost: no user is signed in, or there is nothing that they may see.
    """
    user = user or identify(session_key=session_key, token=token)
    if user is None:
        raise RightLost("not_authenticated")
    viewer = Viewer(user.pk, may(user, SEE_ALL), session_key, token, run)
    if run is not None and not RunRecord.objects.visible_to(user).filter(pk=run).exists():
        raise RightLost("not_found")
    return viewer


def find_lost(viewers: Collection[Viewer]) -> dict[Viewer, RightLost]:
    """Return the viewers who may not watch any longer, with the reason.

    Takes a few queries for each proof, however many runs are watched by it.
    """
    by_proof: dict[tuple[str, str], list[Viewer]] = {}
    for viewer in viewers:
        by_proof.setdefault((viewer.session_key, viewer.token), []).append(viewer)
    lost: dict[Viewer, RightLost] = {}
    hidden: list[Viewer] = []
    for (session_key, token), some in by_proof.items():
        user = identify(session_key=session_key, token=token)
        of_runs = []
        for viewer in some:
            if user is None or user.pk != viewer.user_id:
                lost[viewer] = RightLost("not_authenticated")
            elif viewer.run is not None:
                of_runs.append(viewer)
            elif viewer.sees_all and not may(user, SEE_ALL):
                lost[viewer] = RightLost("not_found")
        if user is not None and of_runs:
            visible = _ids(RunRecord.objects.visible_to(user), of_runs)
            hidden += [viewer for viewer in of_runs if viewer.run not in visible]
    there = _ids(RunRecord.objects.all(), hidden) if hidden else set()
    return lost | {
        viewer: RightLost("not_found" if viewer.run in there else "gone") for viewer in hidden
    }


def _ids(runs: RunQuerySet, viewers: Collection[Viewer]) -> set[uuid.UUID]:
    """Return which of the runs that are watched are among ``runs``."""
    watched = {viewer.run for viewer in viewers if viewer.run is not None}
    return set(runs.filter(pk__in=watched).values_list("pk", flat=True))
