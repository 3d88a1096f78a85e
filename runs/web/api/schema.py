"""The parts of the OpenAPI document that no serializer gives: errors, headers, examples."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.contrib.auth import get_user_model
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import build_parameter_type
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
)
from rest_framework import serializers

from agents.cancellation import StopMode
from runs.actions.starting import IDEMPOTENCY_KEY_PATTERN
from runs.models import RunInput, RunRecord, StopVia, WorkerRecord
from runs.quotas.reading import QUOTAS
from runs.status import Status
from runs.wire import BULK_WORDS, NOTHING_LARGE, run_as_dict

from .errors import CODES
from .requests.inputs import StopByFilterSerializer, StopByIdsSerializer
from .requests.page_bytes import MOST_PAGE_BYTES
from .requests.pagination import MOST_PAGE_SIZE, PAGE_SIZE
from .requests.parameters import INCLUDE_WORDS
from .serializers import (
    AgentSerializer,
    EventSerializer,
    ListedRunSerializer,
    OutcomeSerializer,
)

__all__ = [
    "CURSOR",
    "EXAMPLE_ID",
    "EXAMPLE_OF_QUOTAS",
    "IDEMPOTENCY_KEY",
    "IDEMPOTENCY_KEY_PATTERN",
    "INCLUDE",
    "PAGE_SIZE_PARAMETER",
    "START_WORDS",
    "STOP_MANY",
    "AgentListSerializer",
    "Described",
    "EventPageSerializer",
    "FinishedErrorSerializer",
    "QuotasSerializer",
    "RunPageSerializer",
    "StartManyResultSerializer",
    "StopManyResultSerializer",
    "TokenInfoSerializer",
    "TokenListSerializer",
    "TokenSerializer",
    "example_of_page",
    "example_of_run",
    "operation",
]

_View = TypeVar("_View", bound=Callable[..., Any])

EXAMPLE_ID = uuid.UUID("01994d3c-7b1e-7a52-9c1f-3e1d9a4c8f20")

_MEANINGS = {
    400: "Something in the request is wrong; `fields` says where.",
    401: "The request has no valid session or token.",
    403: "You may see this, but not do it; or the CSRF token is missing.",
    404: "There is no such thing, or none that you may see.",
    406: "The API answers in JSON only.",
    409: "The run is over, and `run` is how it ended; or it was asked to stop.",
    413: "The body, or the input in it, is too large.",
    415: "The body is not declared as `application/json`.",
    422: "The `Idempotency-Key` was used before, with another body.",
    429: "Too many requests, or a quota is used up; `Retry-After` says when to come back, if that "
    "can help.",
    503: "The database does not answer. Nothing was changed.",
}


class Described(AutoSchema):
    """How a view is described; it does not depend on the site's REST_FRAMEWORK."""

    def _get_format_parameters(self) -> list[dict[str, Any]]:
        # Of DRF's default; drf-spectacular reads URL_FORMAT_OVERRIDE.
        formats = self.map_renderers("format")
        text = {"type": "string"}
        parameter = build_parameter_type("format", text, OpenApiParameter.QUERY, enum=formats)
        return [parameter] if len(formats) > 1 else []


class ErrorSerializer(serializers.Serializer):
    """What went wrong."""

    code = serializers.ChoiceField(
        sorted({code for codes in CODES.values() for code in codes}),
        help_text="Stable: what programs may rely on.",
    )
    detail = serializers.CharField(help_text="For people; may change.")
    fields = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()),
        required=False,
        help_text="Path of what is wrong (`input.document`) to messages.",
    )


class QuotaErrorSerializer(ErrorSerializer):
    """Too many requests (`throttled`), or more than a quota allows (`quota_...`)."""

    used = serializers.IntegerField(
        min_value=0, required=False, help_text="Of a quota: how much is in use."
    )
    allowed = serializers.IntegerField(
        min_value=0, required=False, help_text="Of a quota: how much may be."
    )


class FinishedErrorSerializer(ErrorSerializer):
    """A change of a run that is over, or that was asked to stop."""

    run = ListedRunSerializer(required=False)


_ERRORS = {409: FinishedErrorSerializer, 429: QuotaErrorSerializer}


class AgentListSerializer(serializers.Serializer):
    results = AgentSerializer(many=True)


class RunPageSerializer(serializers.Serializer):
    results = ListedRunSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="The address of older runs.")
    previous = serializers.URLField(allow_null=True, help_text="The address of newer runs.")


class EventPageSerializer(serializers.Serializer):
    results = EventSerializer(many=True)
    last_seq = serializers.IntegerField(min_value=0, help_text="Of the run, so far.")
    ended = serializers.BooleanField(help_text="The run is over, and nothing follows this page.")


class QuotaSerializer(serializers.Serializer):
    """One quota of yours."""

    used = serializers.IntegerField(min_value=0)
    allowed = serializers.IntegerField(
        min_value=1, allow_null=True, help_text="Null without a limit."
    )
    code = serializers.CharField(help_text="Of the refusal when it is used up.")


QuotasSerializer = type(
    "QuotasSerializer",
    (serializers.Serializer,),
    {name: QuotaSerializer() for name in QUOTAS},
)

CountsSerializer = type(
    "CountsSerializer",
    (serializers.Serializer,),
    {word: serializers.IntegerField(min_value=0) for word in BULK_WORDS},
)


class StopManyResultSerializer(serializers.Serializer):
    outcomes = OutcomeSerializer(many=True)
    counts = CountsSerializer()


#: What can become of one of many starts.
START_WORDS = ("started", "known", "refused")


class StartOutcomeSerializer(serializers.Serializer):
    """What became of one start."""

    outcome = serializers.ChoiceField(
        START_WORDS,
        help_text="`known`: the run was there before, by its key. `refused`: see `error`.",
    )
    id = serializers.UUIDField(required=False, help_text="Of the run.")
    error = QuotaErrorSerializer(required=False)


StartCountsSerializer = type(
    "StartCountsSerializer",
    (serializers.Serializer,),
    {word: serializers.IntegerField(min_value=0) for word in START_WORDS},
)


class StartManyResultSerializer(serializers.Serializer):
    outcomes = StartOutcomeSerializer(many=True)
    counts = StartCountsSerializer()


class TokenSerializer(serializers.Serializer):
    token = serializers.CharField(
        help_text="To be sent as `Authorization: Token <token>`. It can't be read again."
    )


class TokenInfoSerializer(serializers.Serializer):
    """A token, without the token itself."""

    id = serializers.UUIDField()
    name = serializers.CharField(allow_blank=True)
    begins_with = serializers.CharField(help_text="The first characters of the token.")
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True, help_text="Null: it never expires.")
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")
    last_address = serializers.CharField(allow_blank=True, help_text="Where it was used from.")
    is_current = serializers.BooleanField(help_text="It is the one of this request.")


class TokenListSerializer(serializers.Serializer):
    results = TokenInfoSerializer(many=True)


def operation(
    id: str,
    summary: str,
    tag: str,
    responses: Mapping[Any, Any],
    errors: Sequence[int] = (),
    wrong: Sequence[str] = (),
    quotas: Sequence[str] = (),
    parameters: Sequence[Any] = (),
    **more: Any,
) -> Callable[[_View], _View]:
    """Describe a view's method for OpenAPI: ``extend_schema``, with the errors.

    Any operation may answer 401, 406, 429 and 503; ``wrong`` has the codes of its 400s, ``quotas``
    those of its 429s besides ``throttled``.
    """
    codes: dict[int, Sequence[str]] = {status: CODES[status] for status in (401, 406, 503, *errors)}
    codes[429] = ("throttled", *quotas)
    if wrong:
        codes[400] = wrong
    problems = {
        status: OpenApiResponse(
            _ERRORS.get(status, ErrorSerializer),
            description=f"{_MEANINGS[status]} Codes: {', '.join(f'`{code}`' for code in some)}.",
            examples=[_EXAMPLE_OF_400] if "invalid_input" in some else [],
        )
        for status, some in sorted(codes.items())
    }
    describe = extend_schema(
        operation_id=id,
        summary=summary,
        tags=[tag],
        parameters=[*parameters, *_ERROR_HEADERS],
        responses={**responses, **problems},
        **more,
    )

    def describe_by_ours(view: _View) -> _View:
        # Otherwise it would extend the class that the site has chosen for its own API.
        view.kwargs = {"schema": Described}  # type: ignore[attr-defined]
        return describe(view)

    return describe_by_ours


_EXAMPLE_OF_400 = OpenApiExample(
    "Wrong fields",
    {
        "code": "invalid_input",
        "detail": "input.document: This field is required. (and 1 more)",
        "fields": {
            "input.document": ["This field is required."],
            "input.words": ["Input should be a valid integer"],
        },
    },
    response_only=True,
)

EXAMPLE_OF_QUOTAS = OpenApiExample(
    "Quotas",
    {
        "queued_runs": {"used": 3, "allowed": 10_000, "code": "quota_queued"},
        "stored_bytes": {"used": 48_213_702, "allowed": 21_474_836_480, "code": "quota_stored"},
        "data_store_keys": {"used": 112, "allowed": 1_000_000, "code": "quota_keys"},
    },
    response_only=True,
)

STOP_MANY = PolymorphicProxySerializer(
    component_name="StopMany",
    serializers=[StopByIdsSerializer, StopByFilterSerializer],
    resource_type_field_name=None,
)

_ERROR_HEADERS = [
    OpenApiParameter(
        "WWW-Authenticate",
        OpenApiTypes.STR,
        OpenApiParameter.HEADER,
        response=[401],
        description="`Token`",
    ),
    OpenApiParameter(
        "Retry-After",
        OpenApiTypes.INT,
        OpenApiParameter.HEADER,
        response=[429, 503],
        description="In seconds.",
    ),
]

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": IDEMPOTENCY_KEY_PATTERN,
    },
    OpenApiParameter.HEADER,
    description=(
        "Makes it safe to send this again: the same key and body give the run that there is. "
        "Printable ASCII. Keys are yours alone, and live as long as the run."
    ),
)

CURSOR = OpenApiParameter(
    "cursor", str, description="From `next` or `previous`; nothing to make up."
)

PAGE_SIZE_PARAMETER = OpenApiParameter(
    "page_size",
    {"type": "integer", "minimum": 1, "default": PAGE_SIZE},
    description=f"More than {MOST_PAGE_SIZE} is cut to that.",
)

INCLUDE = OpenApiParameter(
    "include",
    {"type": "array", "items": {"type": "string", "enum": list(INCLUDE_WORDS)}},
    style="form",
    explode=False,
    description=(
        "What lists leave out, separated by commas; `result` brings `partial_result`, too. A page "
        f"ends early when it has {MOST_PAGE_BYTES // 1024**2} MiB of them, with one run at least; "
        "`next` goes on."
    ),
)


def example_of_page() -> OpenApiExample:
    """Return a page with one run."""
    page = {"results": [run_as_dict(_example(), NOTHING_LARGE)], "next": None, "previous": None}
    return OpenApiExample("A page", page, response_only=True)


def example_of_run(*, stopping: bool = False) -> OpenApiExample:
    """Return a run that was just started, or one that was just asked to stop."""
    name = "A run that is stopping" if stopping else "A run"
    return OpenApiExample(name, run_as_dict(_example(stopping=stopping)), response_only=True)


def _example(*, stopping: bool = False) -> RunRecord:
    users = get_user_model()
    demo = users(**{users.USERNAME_FIELD: "demo"})
    run = RunRecord(
        id=EXAMPLE_ID,
        agent="summarise",
        owner=demo,
        root_id=EXAMPLE_ID,
        created_at=datetime(2026, 1, 31, 12, 0, 0, 123456, UTC),
    )
    run.input_record = RunInput(value={"document": "It was the best of times ...", "words": 100})
    if stopping:
        run.status, run.attempt, run.last_seq = Status.RUNNING, 1, 7
        run.started_at = datetime(2026, 1, 31, 12, 0, 0, 125000, UTC)
        run.worker = WorkerRecord(name="host:4711")
        called_at = "2026-01-31T12:00:41.200000+00:00"
        run.in_flight = [
            {"call": "3", "tool": "call_llm", "label": "llama3", "started_at": called_at}
        ]
        run.llm_calls, run.input_tokens, run.output_tokens = 2, 5120, 210
        run.stop_requested_at = datetime(2026, 1, 31, 12, 0, 42, tzinfo=UTC)
        run.stop_requested_by, run.stop_via = demo, StopVia.API
        run.stop_mode, run.stop_reason = StopMode.GRACEFUL, "The wrong document."
    return run
