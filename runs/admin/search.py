"""The search in the admin's list of runs: by id, by owner and by input.

Each is bounded, so that no search text makes the database read everything: ids by a range of the
primary key, owners by their own small table, inputs to those of the newest runs.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.utils.translation import gettext_lazy as _

from ..models import RunInput, RunRecord

__all__ = ["HELP", "contains_json", "owners_named", "search_runs"]

NEWEST_INPUTS = 1_000
MOST_INPUT_BYTES = 64 * 1024
_MOST_OWNERS = 200

HELP = _(
    "Searches ids (whole, or their first 8 characters and more), names of owners, and the text of "
    "inputs up to 64 kB of the newest 1,000 runs that match the filters."
)
_ID_PREFIX = re.compile(r"[0-9a-f]{8,32}")


def search_runs(runs: QuerySet[RunRecord], text: str) -> QuerySet[RunRecord]:
    """Narrow ``runs`` to those that match ``text``, as one phrase."""
    text = text.strip()
    if not text:
        return runs
    wanted = Q(owner__in=owners_named(text)) | Q(pk__in=_with_input(runs, text))
    if ids := _ids(text):
        wanted |= Q(pk__range=ids)
    return runs.filter(wanted)


def _ids(text: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """Return the first and the last id with the prefix ``text``, if it can be one."""
    digits = text.lower().replace("-", "")
    if not _ID_PREFIX.fullmatch(digits):
        return None
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def owners_named(text: str) -> list[Any]:
    """Return the keys of users whose names contain ``text``, at most 200."""
    users = get_user_model()
    found = users._default_manager.filter(**{f"{users.USERNAME_FIELD}__icontains": text})
    return list(found.values_list("pk", flat=True)[:_MOST_OWNERS])


def _with_input(runs: QuerySet[RunRecord], text: str) -> list[uuid.UUID]:
    newest = runs.order_by("-created_at", "-id").values("pk")[:NEWEST_INPUTS]
    inputs = RunInput.objects.filter(pk__in=newest, size_bytes__lte=MOST_INPUT_BYTES)
    found = inputs.annotate(text=Cast("value", TextField())).filter(contains_json("text", text))
    return list(found.values_list("pk", flat=True))


def contains_json(field: str, text: str) -> Q:
    """Return the condition that ``text`` occurs in a field that holds JSON as text."""
    # As JSON writes it: SQLite stores characters beyond ASCII as \uXXXX, PostgreSQL as they are.
    plain, escaped = json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]
    return Q(**{f"{field}__icontains": plain}) | Q(**{f"{field}__icontains": escaped})
