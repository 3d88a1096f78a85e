"""What a page carries back to us and nobody may change: signed, for one user, for one day.

Ids go as one short text: 5,000 of them are one field of a form (Django takes 1,000 fields), and
nothing has to be kept on the server for pages that nobody ever answers.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core import signing

__all__ = ["NotSigned", "pack", "read", "sign", "unpack"]

_LIFETIME = timedelta(days=1)


class NotSigned(Exception):
    """This is nothing that we have signed for this user, or it is too old."""


def sign(data: dict[str, Any], user: User, *, purpose: str) -> str:
    return signing.dumps([str(user.pk), data], salt=f"runs.admin.{purpose}")


def read(text: str, user: User, *, purpose: str) -> dict[str, Any]:
    """Return what ``sign`` was given.

    Raises:
        NotSigned: it is somebody else's, for another purpose, too old, or not ours at all.
    """
    try:
        owner, data = signing.loads(text, salt=f"runs.admin.{purpose}", max_age=_LIFETIME)
    except signing.BadSignature as error:
        raise NotSigned from error
    if owner != str(user.pk):
        raise NotSigned
    return dict(data)


def pack(ids: Iterable[uuid.UUID]) -> str:
    """Write ids as text, 22 characters each."""
    return base64.b64encode(b"".join(id.bytes for id in ids)).decode()


def unpack(text: str) -> list[uuid.UUID]:
    data = base64.b64decode(text)
    return [uuid.UUID(bytes=data[start : start + 16]) for start in range(0, len(data), 16)]
