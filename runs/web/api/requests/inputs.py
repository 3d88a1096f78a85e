"""The shapes of the bodies that clients send."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agents.cancellation import StopMode
from agents.options import HIGHEST_PRIORITY, LONGEST_SECONDS, LOWEST_PRIORITY
from runs.actions.starting import MOST_STARTS
from runs.actions.stop_rows import LONGEST_PLAN_SECONDS, is_in_order
from runs.identity.models import MAX_NAME_LENGTH
from runs.models import MAX_REASON_LENGTH

from .fields import (
    AnyJsonField,
    NumberField,
    StrictSerializer,
    TextField,
    UuidField,
    WholeNumberField,
)
from .filters import RunFilterSerializer

__all__ = [
    "MOST_IDS",
    "CredentialsSerializer",
    "NewLimitsSerializer",
    "StartManySerializer",
    "StartSerializer",
    "StopByFilterSerializer",
    "StopByIdsSerializer",
    "StopSerializer",
    "stop_many_serializer",
]

MOST_IDS = 10_000
MOST_EXPIRES_SECONDS = 100 * 365 * 24 * 60 * 60


@extend_schema_field(OpenApiTypes.OBJECT)
class _InputField(AnyJsonField):
    """The service checks it by the agent's schema."""


class SecondsField(NumberField):
    """How long after a request something is to happen."""

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=LONGEST_PLAN_SECONDS, **options)


class LimitField(NumberField):
    """A limit of a run; the service checks that it is above 0, and permitted."""

    def __init__(self, help_text: str) -> None:
        super().__init__(
            required=False,
            allow_null=True,
            min_value=0,
            max_value=LONGEST_SECONDS,
            help_text=help_text,
        )


class NewLimitsSerializer(StrictSerializer):
    """Limits of a run, in seconds. Null is no limit; a limit that is left out stays as it is."""

    deadline_seconds = LimitField("How long it may take from its first start on.")
    idle_seconds = LimitField("How long it may show no sign of life.")
    call_seconds = LimitField("How long one call may take.")


class StartSerializer(StrictSerializer):
    """What to run."""

    agent = TextField(help_text="A name from `GET /agents`.")
    input = _InputField(default=dict, help_text="As the agent's `input_schema` says.")
    priority = WholeNumberField(
        required=False,
        min_value=LOWEST_PRIORITY,
        max_value=HIGHEST_PRIORITY,
        help_text="The agent's own unless given. The queued runs of the highest priority start "
        "first; to go above the agent's own takes the permission `runs.prioritise_runrecord`.",
    )
    limits = NewLimitsSerializer(
        required=False,
        help_text="Tighter than those of the agent and the site; looser ones take the permission "
        "`runs.raise_limits`.",
    )


class StartOneSerializer(StartSerializer):
    """One of the runs to start."""

    idempotency_key = TextField(
        required=False,
        max_length=255,
        help_text="As the header `Idempotency-Key` of `POST /runs`.",
    )


class StartManySerializer(StrictSerializer):
    """What to run."""

    runs = StartOneSerializer(many=True, allow_empty=False, max_length=MOST_STARTS)  # type: ignore[call-arg]


class StopSerializer(StrictSerializer):
    """How to stop, and why."""

    mode = serializers.ChoiceField(
        [str(mode) for mode in StopMode],
        required=False,
        allow_null=True,
        help_text="`graceful` unless given: the call in flight is finished, the next one refused. "
        "`abort` cuts the calls in flight. `abandon` ends the run, whether its code ends or not.",
    )
    reason = TextField(
        required=False,
        allow_null=True,
        allow_blank=True,
        max_length=MAX_REASON_LENGTH,
        help_text="Goes into the receipt.",
    )
    abort_after = SecondsField(
        required=False,
        allow_null=True,
        help_text="So many seconds from now the stop becomes `abort` by itself.",
    )
    abandon_after = SecondsField(
        required=False,
        allow_null=True,
        help_text="The same for `abandon`; not earlier than `abort_after`.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Treat null as a field that is left out."""
        given = {name: value for name, value in attrs.items() if value is not None}
        if not is_in_order(given.get("abort_after"), given.get("abandon_after")):
            raise serializers.ValidationError({"abandon_after": ["Not before abort_after."]})
        return given


@extend_schema_field(
    {
        "type": "array",
        "items": {"type": "string", "format": "uuid"},
        "minItems": 1,
        "maxItems": MOST_IDS,
    }
)
class _IdsField(serializers.ListField):
    def __init__(self, **options: Any) -> None:
        super().__init__(child=UuidField(), allow_empty=False, max_length=MOST_IDS, **options)


class StopByIdsSerializer(StopSerializer):
    """Which runs to stop, one by one."""

    ids = _IdsField()


class StopByFilterSerializer(StopSerializer):
    """Which runs to stop: those that are not over and that the filter finds."""

    filter = RunFilterSerializer(help_text="As in `GET /runs`, and not empty.")

    def validate_filter(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if not wanted:
            raise serializers.ValidationError(
                "An empty filter would stop everything: say which runs."
            )
        return wanted


def stop_many_serializer(body: dict[str, Any]) -> type[StopSerializer]:
    """Choose the shape of a body.

    Raises:
        ValidationError: it has both ids and filter, or neither.
    """
    if ("ids" in body) == ("filter" in body):
        message = "Either ids or filter is expected, and not both."
        raise serializers.ValidationError({"ids": [message], "filter": [message]})
    return StopByIdsSerializer if "ids" in body else StopByFilterSerializer


class CredentialsSerializer(StrictSerializer):
    """Who wants a token."""

    username = TextField(max_length=254)
    password = TextField(max_length=4096, style={"input_type": "password"})
    name = TextField(
        required=False,
        allow_blank=True,
        max_length=MAX_NAME_LENGTH,
        help_text="What the token is for. You see it in your list of tokens.",
    )
    expires_seconds = WholeNumberField(
        required=False,
        min_value=1,
        max_value=MOST_EXPIRES_SECONDS,
        help_text="How long the token lasts. The server may have a shorter limit.",
    )
