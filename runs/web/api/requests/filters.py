"""The filters of lists of runs: query parameters there, ``filter`` in the body of a bulk stop."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from runs.models import RunQuerySet, RunRecord
from runs.status import SHOWN

from .fields import InstantField, StrictSerializer, TextField, UuidField

__all__ = ["RunFilterSerializer", "filter_runs"]

_SHOWN = [str(status) for status in SHOWN]


@extend_schema_field({"type": "array", "items": {"type": "string", "enum": _SHOWN}, "minItems": 1})
class _StatusesField(serializers.Field):
    """One or more statuses: a list, or text with commas."""

    def to_internal_value(self, data: object) -> list[str]:
        given = data if isinstance(data, list) else [data]
        if not given or not all(isinstance(item, str) for item in given):
            raise serializers.ValidationError("One or more statuses are expected.")
        statuses = [word.strip() for item in given for word in str(item).split(",")]
        for status in statuses:
            if status not in _SHOWN:
                raise serializers.ValidationError(
                    f'"{status}" is no status. There are: {", ".join(_SHOWN)}.'
                )
        return statuses


class RunFilterSerializer(StrictSerializer):
    """Which runs. All that is given must hold; one of the statuses is enough."""

    status = _StatusesField(required=False, help_text="One or more; `stopping` is one, too.")
    agent = TextField(required=False)
    owner = TextField(required=False, help_text="A username.")
    parent = UuidField(  # type: ignore[assignment]
        required=False, help_text="The run that called them."
    )
    root = UuidField(  # type: ignore[assignment]
        required=False, help_text="The root of the tree that they are in."
    )
    created_after = InstantField(required=False, help_text="Includes this instant.")
    created_before = InstantField(required=False, help_text="Excludes this instant.")

    schema_extra: ClassVar[dict[str, Any]] = {"minProperties": 1}

    #: Field -> lookup of the query, for all but ``status``.
    LOOKUPS: ClassVar[dict[str, str]] = {
        "agent": "agent",
        "owner": f"owner__{get_user_model().USERNAME_FIELD}",
        "parent": "parent",
        "root": "root",
        "created_after": "created_at__gte",
        "created_before": "created_at__lt",
    }


def filter_runs(runs: RunQuerySet, wanted: dict[str, Any]) -> QuerySet[RunRecord]:
    """Narrow ``runs`` by the data of a valid ``RunFilterSerializer``."""
    if statuses := wanted.get("status"):
        runs = runs.with_shown_status(statuses)
    lookups = RunFilterSerializer.LOOKUPS
    return runs.filter(**{lookups[name]: wanted[name] for name in lookups if name in wanted})
