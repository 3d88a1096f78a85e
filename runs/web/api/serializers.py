"""What runs, events and agents look like on the wire, for OpenAPI.

Runs and events know themselves how they are written (``wire``, ``RunEvent.as_dict``), because every
door needs that; here the shapes are described, field by field.
"""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agents.cancellation import StopMode
from agents.options import HIGHEST_PRIORITY, LOWEST_PRIORITY
from runs.models import MAX_REASON_LENGTH, RunEvent, RunRecord, StopVia
from runs.status import STOPPING, Status
from runs.wire import run_as_dict

from .requests.fields import AnyJsonField

__all__ = [
    "SHOWN_STATUSES",
    "AgentSerializer",
    "EventSerializer",
    "RunSerializer",
]

#: In the order of a run's life.
SHOWN_STATUSES = (
    Status.QUEUED,
    Status.RUNNING,
    STOPPING,
    Status.SUCCESS,
    Status.ERROR,
    Status.STOPPED,
)


class AgentSerializer(serializers.Serializer):
    """An agent that can be run."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    input_schema = serializers.DictField(help_text="JSON Schema of the `input` of its runs.")
    output_schema = serializers.DictField(help_text="JSON Schema of the `result` of its runs.")


class ErrorInfoSerializer(serializers.Serializer):
    """What ended a run as `error`."""

    code = serializers.CharField()
    type = serializers.CharField()
    message = serializers.CharField(allow_blank=True)


class CleanupErrorSerializer(serializers.Serializer):
    """What went wrong in the agent's code after the stop was observed."""

    type = serializers.CharField()
    message = serializers.CharField(allow_blank=True)


class CallSerializer(serializers.Serializer):
    """A guarded call that is going on now."""

    call = serializers.CharField(help_text="Its id, the same in its event.")
    tool = serializers.CharField()
    label = serializers.CharField(allow_blank=True)  # type: ignore[assignment]
    started_at = serializers.DateTimeField()


class UsageSerializer(serializers.Serializer):
    """What a run has used of its models so far."""

    llm_calls = serializers.IntegerField(min_value=0)
    input_tokens = serializers.IntegerField(min_value=0)
    output_tokens = serializers.IntegerField(min_value=0)
    estimated = serializers.BooleanField(help_text="Some of it was not reported by the model.")


class ReceiptSerializer(serializers.Serializer):
    """The stop receipt."""

    mode = serializers.ChoiceField([str(mode) for mode in StopMode])
    reason = serializers.CharField(allow_blank=True, max_length=MAX_REASON_LENGTH)
    via = serializers.ChoiceField(StopVia.values, help_text="The door that it came through.")
    requested_by = serializers.CharField(allow_null=True, help_text="A username.")
    requested_at = serializers.DateTimeField()
    escalated_by = serializers.CharField(allow_null=True, help_text="A username.")
    escalated_at = serializers.DateTimeField(allow_null=True)
    acknowledged_at = serializers.DateTimeField(
        allow_null=True,
        help_text="When the worker that owns the run tripped its token.",
    )
    observed_at = serializers.DateTimeField(
        allow_null=True,
        help_text="When the agent's code first met the stop.",
    )
    finished_first = serializers.BooleanField(help_text="The run had ended before it met the stop.")
    calls_started_after_acknowledgement = serializers.IntegerField(min_value=0)
    root_request = serializers.UUIDField(help_text="The run on which the stop was asked for.")
    abandoned = serializers.BooleanField()
    cleanup_error = CleanupErrorSerializer(allow_null=True)


class RunSerializer(serializers.Serializer):
    """A run, with its stop receipt once somebody wanted it stopped."""

    id = serializers.UUIDField()
    agent = serializers.CharField()
    input = serializers.DictField()
    status = serializers.ChoiceField([str(status) for status in SHOWN_STATUSES])
    result = AnyJsonField(allow_null=True, help_text="What the agent returned.")
    partial_result = AnyJsonField(
        allow_null=True, help_text="What there was when the run was stopped or failed."
    )
    error = ErrorInfoSerializer(allow_null=True)
    owner = serializers.CharField(help_text="A username.")
    parent = serializers.UUIDField(allow_null=True)  # type: ignore[assignment]
    root = serializers.UUIDField(  # type: ignore[assignment]
        help_text="Its own id if nothing called it."
    )
    priority = serializers.IntegerField(
        min_value=LOWEST_PRIORITY,
        max_value=HIGHEST_PRIORITY,
        help_text="Of what is waiting, the highest is begun first.",
    )
    attempt = serializers.IntegerField(min_value=0, help_text="0 until a worker has claimed it.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    in_flight = CallSerializer(many=True)
    usage = UsageSerializer()
    last_seq = serializers.IntegerField(min_value=0, help_text="The number of its last event.")
    log_removed_at = serializers.DateTimeField(
        allow_null=True, help_text="Since then its events are gone; it had `last_seq` of them."
    )
    worker = serializers.CharField(allow_null=True, help_text="The name of the worker that has it.")
    stop = ReceiptSerializer(allow_null=True)

    def to_representation(self, run: RunRecord) -> dict[str, Any]:
        return run_as_dict(run)


class EventSerializer(serializers.Serializer):
    """One line of a run's log."""

    run = serializers.UUIDField()
    seq = serializers.IntegerField(min_value=1, help_text="From 1, without a gap.")
    ts = serializers.DateTimeField()
    type = serializers.CharField()
    agent = serializers.CharField()
    depth = serializers.IntegerField(min_value=0, help_text="0 for the root of a tree of runs.")
    source = serializers.ChoiceField(["system", "agent"])  # type: ignore[assignment]
    data = serializers.DictField(help_text="What is particular to the type.")  # type: ignore[assignment]

    def to_representation(self, event: RunEvent) -> dict[str, Any]:
        return event.as_dict()
