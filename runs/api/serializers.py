"""How runs, events and agents look on the wire: the same for every door.

Only shapes: nothing here knows requests or views, so sockets and pages use it, too.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agents.cancellation import StopMode

from ..models import MAX_REASON_LENGTH, RunEvent, RunRecord, StopVia
from ..status import STOPPING, Status
from .fields import AnyJsonField, InstantField

__all__ = [
    "SHOWN_STATUSES",
    "AgentSerializer",
    "EventSerializer",
    "RunSerializer",
    "for_wire",
    "get_for_wire",
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


def for_wire(runs: QuerySet[RunRecord]) -> QuerySet[RunRecord]:
    """Make a query bring along all that ``RunSerializer`` reads."""
    return runs.select_related(
        "owner", "worker", "input_record", "stop_requested_by", "stop_escalated_by"
    )


def get_for_wire(id: uuid.UUID) -> RunRecord:
    """Return a run, as it is now, for the wire; in one query.

    Raises:
        RunRecord.DoesNotExist: there is none.
    """
    return for_wire(RunRecord.objects.all()).get(pk=id)


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

    mode = serializers.ChoiceField([str(mode) for mode in StopMode], source="stop_mode")
    reason = serializers.CharField(
        allow_blank=True, max_length=MAX_REASON_LENGTH, source="stop_reason"
    )
    via = serializers.ChoiceField(
        StopVia.values, source="stop_via", help_text="The door that it came through."
    )
    requested_by = serializers.SerializerMethodField(help_text="A username.")
    requested_at = InstantField(source="stop_requested_at")
    escalated_by = serializers.SerializerMethodField(help_text="A username.")
    escalated_at = InstantField(allow_null=True, source="stop_escalated_at")
    acknowledged_at = InstantField(
        allow_null=True,
        source="stop_acknowledged_at",
        help_text="When the worker that owns the run tripped its token.",
    )
    observed_at = InstantField(
        allow_null=True,
        source="stop_observed_at",
        help_text="When the agent's code first met the stop.",
    )
    finished_first = serializers.BooleanField(
        source="stop_finished_first", help_text="The run had ended before it met the stop."
    )
    calls_started_after_acknowledgement = serializers.IntegerField(
        min_value=0, source="stop_calls_started_after_acknowledgement"
    )
    root_request = serializers.UUIDField(
        source="stop_root_request", help_text="The run on which the stop was asked for."
    )
    abandoned = serializers.BooleanField(source="stop_abandoned")
    cleanup_error = CleanupErrorSerializer(allow_null=True, source="stop_cleanup_error")

    def get_requested_by(self, run: RunRecord) -> str | None:
        return run.stop_requested_by.get_username() if run.stop_requested_by else None

    def get_escalated_by(self, run: RunRecord) -> str | None:
        return run.stop_escalated_by.get_username() if run.stop_escalated_by else None


class RunSerializer(serializers.Serializer):
    """A run, with its stop receipt once somebody wanted it stopped."""

    # Without for_wire() each run costs up to five more queries.

    id = serializers.UUIDField()
    agent = serializers.CharField()
    input = serializers.DictField(source="input_record.value")
    status = serializers.ChoiceField(
        [str(status) for status in SHOWN_STATUSES], source="shown_status"
    )
    result = AnyJsonField(allow_null=True, help_text="What the agent returned.")
    partial_result = AnyJsonField(
        allow_null=True, help_text="What there was when the run was stopped or failed."
    )
    error = ErrorInfoSerializer(allow_null=True)
    owner = serializers.CharField(source="owner.get_username", help_text="A username.")
    parent = serializers.UUIDField(allow_null=True, source="parent_id")  # type: ignore[assignment]
    root = serializers.UUIDField(  # type: ignore[assignment]
        source="root_id", help_text="Its own id if nothing called it."
    )
    attempt = serializers.IntegerField(min_value=0, help_text="0 until a worker has claimed it.")
    created_at = InstantField()
    started_at = InstantField(allow_null=True)
    finished_at = InstantField(allow_null=True)
    in_flight = CallSerializer(many=True)
    usage = serializers.SerializerMethodField()
    last_seq = serializers.IntegerField(min_value=0, help_text="The number of its last event.")
    worker = serializers.SerializerMethodField(help_text="The name of the worker that has it.")
    stop = serializers.SerializerMethodField()

    @extend_schema_field(UsageSerializer)
    def get_usage(self, run: RunRecord) -> dict[str, Any]:
        return {
            "llm_calls": run.llm_calls,
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "estimated": run.usage_estimated,
        }

    def get_worker(self, run: RunRecord) -> str | None:
        return run.worker.name if run.worker else None

    @extend_schema_field(ReceiptSerializer(allow_null=True))
    def get_stop(self, run: RunRecord) -> dict[str, Any] | None:
        return ReceiptSerializer(run).data if run.stop_requested else None


class EventSerializer(serializers.Serializer):
    """One line of a run's log."""

    run = serializers.UUIDField(source="run_id")
    seq = serializers.IntegerField(min_value=1, help_text="From 1, without a gap.")
    ts = serializers.DateTimeField()
    type = serializers.CharField()
    agent = serializers.CharField()
    depth = serializers.IntegerField(min_value=0, help_text="0 for the root of a tree of runs.")
    source = serializers.ChoiceField(["system", "agent"])  # type: ignore[assignment]
    data = serializers.DictField(help_text="What is particular to the type.")  # type: ignore[assignment]

    def to_representation(self, event: RunEvent) -> dict[str, Any]:
        return event.as_dict()  # the record knows it, as the trace does; this only describes it
