"""What the commands ask of the database: a user, a receipt in words."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError
from django.utils import timezone

from runs.management.console import printable
from runs.web.feed.reading import read_snapshots
from runs.wording.receipt import sentences

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = ["find_user", "receipt_of"]


def find_user(name: str, *, may_be_inactive: bool = False) -> User:
    """Return the user of that name.

    Raises:
        CommandError: there is none, or the user is not active; exit code 2.
    """
    users = get_user_model()
    user = users._default_manager.filter(**{users.USERNAME_FIELD: name}).first()
    if user is None:
        hint = " `manage.py create_demo_users` makes it." if name == "demo" else ""
        raise CommandError(f'There is no user "{printable(name)}".{hint}', returncode=2)
    if not (user.is_active or may_be_inactive):
        raise CommandError(f'The user "{printable(name)}" is not active.', returncode=2)
    return user


def receipt_of(run: uuid.UUID, *, result_below: bool) -> list[str]:
    """Return the stop receipt of a run in sentences; none without a stop request."""
    snapshot = read_snapshots([run])[run]
    return sentences(
        snapshot.run,
        waited_for=snapshot.waited_for,
        now=timezone.now(),
        result_below=result_below,
    )
