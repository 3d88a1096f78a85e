"""The site's users, of whose model nothing is known but that Django can sign them in.

The key may be a number, a UUID or a text. A statement that no model prepares takes and reads it
through the model's own field: ``key_as_parameter`` and ``key_as_read``. The name is the value of
``USERNAME_FIELD``. Permissions, and ``is_active``, may be missing.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.db import connections
from django.db.models import Field

from .alias import alias
from .statements import converted

__all__ = [
    "MAX_USERNAME_LENGTH",
    "has_column",
    "key_as_parameter",
    "key_as_read",
    "may",
    "username_of",
]

#: Of the columns that keep a name. It is Django's own; an address may be longer, and is cut.
MAX_USERNAME_LENGTH = 150


def key_as_parameter(key: Any) -> Any:
    """Return a user's key as a parameter of a statement."""
    return _key().get_db_prep_value(key, connections[alias()])


def key_as_read(value: Any) -> Any:
    """Return the key that a statement has read, as ``user.pk`` would be."""
    [key] = converted((_key(),), (value,))
    return key


def username_of(user: Any) -> str:
    """Return the name of a user for a column that keeps it; empty for no user."""
    return "" if user is None else str(user.get_username())[:MAX_USERNAME_LENGTH]


def may(user: Any, permission: str) -> bool:
    """Tell whether a user has a permission; users of a model without permissions have none."""
    has_perm = getattr(user, "has_perm", None)
    return has_perm is not None and bool(has_perm(permission))


def has_column(name: str) -> bool:
    """Tell whether the table of users has the column of this field."""
    return any(field.name == name for field in get_user_model()._meta.concrete_fields)


def _key() -> Field:
    key = get_user_model()._meta.pk
    assert key is not None
    return key
