"""The views of the REST API. Each reads a request, calls a service, and writes the answer."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from django.contrib.auth.models import User
from django.http import Http404
from django.http.response import HttpResponseBase
from django.urls import reverse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.exceptions import (
    APIException,
    NotAcceptable,
    Throttled,
    ValidationError,
)
from rest_framework.metadata import SimpleMetadata
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import APISettings
from rest_framework.views import APIView

from agents import registry
from runs import events
from runs.actions import starting
from runs.identity import actors, tokens
from runs.identity.authentication import TokenAuthentication
from runs.identity.models import ApiToken
from runs.models import RunRecord
from runs.quotas.reading import QUOTAS, quotas_of
from runs.web.rendering import JsonRenderer
from runs.wire import NOTHING_LARGE, for_wire, get_for_wire, read_tree_usage, run_as_dict

from . import event_stream, schema
from .authentication import SessionAuthentication
from .errors import describe_refusal, exception_handler
from .event_stream import ServerSentEventRenderer
from .requests import bodies, inputs, parameters
from .requests.fields import UuidField
from .requests.filters import RunFilterSerializer, filter_runs
from .requests.page_bytes import MOST_PAGE_BYTES, count_that_fits, with_large
from .requests.pagination import PAGE_PARAMETERS, read_page
from .serializers import AgentSerializer, RunSerializer
from .throttling import ApiThrottle

__all__ = [
    "ID",
    "AgentsView",
    "ApiView",
    "EventsView",
    "QuotasView",
    "RunView",
    "RunsView",
    "StartManyView",
    "read_id",
    "read_idempotency_key",
]

EVENT_COUNT = 500
MOST_EVENTS = 10_000  # as many as a run keeps: a whole log fits in one answer
LARGEST_SEQ = 2**31 - 1

ID = OpenApiParameter("id", uuid.UUID, OpenApiParameter.PATH)
_KEY = re.compile(schema.IDEMPOTENCY_KEY_PATTERN)


class _ByAcceptAlone(DefaultContentNegotiation):
    """Without DRF's ``?format=``, which is an unknown parameter like any other."""

    settings: Any = SimpleNamespace(URL_FORMAT_OVERRIDE=None)


class ApiView(APIView):
    """The parent of all views.

    It names all that DRF would take from the site's REST_FRAMEWORK: the site's own API may let
    everybody in, or answer in HTML.
    """

    # The first one decides the WWW-Authenticate header of a 401.
    authentication_classes: Any = [TokenAuthentication, SessionAuthentication]
    permission_classes: Any = [IsAuthenticated]
    throttle_classes: Any = [ApiThrottle]
    parser_classes: Any = [JSONParser]
    renderer_classes: Any = [JsonRenderer]
    content_negotiation_class: Any = _ByAcceptAlone
    metadata_class: Any = SimpleMetadata
    versioning_class: Any = None
    schema: Any = schema.Described()
    #: DRF's defaults, but for one.
    settings: Any = APISettings({"EXCEPTION_HANDLER": exception_handler})
    #: With which the request came.
    token: ApiToken | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        try:
            super().initial(request, *args, **kwargs)
        except (NotAcceptable, Throttled):
            raise
        except APIException:
            # DRF counts only the requests that it lets in: guessing tokens would cost nothing.
            self.check_throttles(request)
            raise
        if isinstance(request.auth, tokens.Found):
            self.token = request.auth.token

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "no-store")
        if self.token is not None:
            note = partial(tokens.note_use, self.token, actors.address_of(request._request))
            if response.streaming:  # it may be sent for hours
                note()
            else:  # after the answer is sent: a stop does not wait for it
                response._resource_closers.append(note)
        return response

    @property
    def user(self) -> User:
        """The user who asks; the permissions let in no request without one."""
        return cast(User, self.request.user)


class AgentsView(ApiView):
    @schema.operation("list_agents", "List the agents", "agents", {200: schema.AgentListSerializer})
    def get(self, request: Request) -> Response:
        """All agents that can be run, by name, with the schemas of what they take and give."""
        return Response({"results": AgentSerializer(registry.all(), many=True).data})


class RunsView(ApiView):
    @schema.operation(
        "list_runs",
        "List runs",
        "runs",
        {200: OpenApiResponse(schema.RunPageSerializer, examples=[schema.example_of_page()])},
        wrong=["invalid_filter"],
        parameters=[
            RunFilterSerializer,
            schema.INCLUDE,
            schema.CURSOR,
            schema.PAGE_SIZE_PARAMETER,
        ],
    )
    def get(self, request: Request) -> Response:
        """The runs that you may see, newest first. Pages stay put while new runs come in.

        A list has no `input`, `result` and `partial_result` unless `include` names them.
        """
        known = {*RunFilterSerializer().fields, *PAGE_PARAMETERS, "include"}
        parameters.refuse_unknown(request, known)
        wanted, large = parameters.run_filter(request), parameters.include(request)
        runs = filter_runs(RunRecord.objects.visible_to(self.user), wanted)
        page = read_page(
            request, for_wire(runs, NOTHING_LARGE), lambda some: count_that_fits(some, large)
        )
        found = with_large(page.runs, large)
        read_tree_usage(found)
        return Response(page.as_dict([run_as_dict(run, large) for run in found]))

    @schema.operation(
        "start_run",
        "Start a run",
        "runs",
        {
            201: OpenApiResponse(RunSerializer, "It is queued.", [schema.example_of_run()]),
            200: OpenApiResponse(RunSerializer, "The run that this key has started before."),
        },
        errors=[403, 413, 415, 422],
        wrong=["invalid_json", "invalid_input"],
        quotas=["quota_queued", "quota_stored"],
        parameters=[
            schema.IDEMPOTENCY_KEY,
            OpenApiParameter(
                "Location",
                str,
                OpenApiParameter.HEADER,
                response=[201],
                description="The address of the run.",
            ),
        ],
        request=inputs.StartSerializer,
        examples=[
            OpenApiExample(
                "Summarise",
                {"agent": "summarise", "input": {"document": "It was ...", "words": 100}},
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Queue a run of an agent, for the next worker that is free."""
        key = read_idempotency_key(request)
        body = bodies.read(request, inputs.StartSerializer)
        run, is_new = starting.start_run(
            body["agent"],
            body["input"],
            owner=self.user,
            idempotency_key=key,
            priority=body.get("priority"),
            limits=body.get("limits", {}),
        )
        if not is_new:
            return Response(run_as_dict(get_for_wire(run.pk)))
        location = request.build_absolute_uri(reverse("halting:api-run", kwargs={"id": run.pk}))
        return Response(run_as_dict(run), status=201, headers={"Location": location})


class StartManyView(ApiView):
    @schema.operation(
        "start_runs",
        "Start many runs",
        "runs",
        {200: schema.StartManyResultSerializer},
        errors=[403, 413, 415],
        wrong=["invalid_json", "invalid_input"],
        request=inputs.StartManySerializer,
        examples=[
            OpenApiExample(
                "Two",
                {
                    "runs": [
                        {"agent": "summarise", "input": {"document": "It was ..."}},
                        {"agent": "summarise", "input": {"document": "There was ..."}},
                    ]
                },
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Queue up to 1,000 runs at once; one outcome for each, in their order.

        A run that is refused has an error, as `POST /runs` would answer, and the others start.
        """
        body = bodies.read(request, inputs.StartManySerializer)
        starts = [
            starting.Start(
                one["agent"],
                one["input"],
                one.get("idempotency_key"),
                one.get("priority"),
                one.get("limits", {}),
            )
            for one in body["runs"]
        ]
        outcomes = [_outcome(one) for one in starting.start_many(starts, owner=self.user)]
        counts = Counter(one["outcome"] for one in outcomes)
        return Response(
            {"outcomes": outcomes, "counts": {word: counts[word] for word in schema.START_WORDS}}
        )


def _outcome(one: starting.Started) -> dict[str, Any]:
    started, known, refused = schema.START_WORDS
    if one.error is not None:
        return {"outcome": refused, "error": describe_refusal(one.error)}
    assert one.run is not None
    return {"outcome": started if one.is_new else known, "id": one.run.pk}


class QuotasView(ApiView):
    @schema.operation(
        "list_quotas",
        "Look at your quotas",
        "identity",
        {200: OpenApiResponse(schema.QuotasSerializer, examples=[schema.EXAMPLE_OF_QUOTAS])},
    )
    def get(self, request: Request) -> Response:
        """What you have used of each quota, and what is allowed."""
        parameters.refuse_unknown(request, ())
        found = quotas_of(self.user.pk)
        return Response(
            {
                quota.name: {
                    "used": quota.used,
                    "allowed": quota.allowed,
                    "code": QUOTAS[quota.name],
                }
                for quota in found
            }
        )


class RunView(ApiView):
    @schema.operation(
        "get_run",
        "Look at a run",
        "runs",
        {200: OpenApiResponse(RunSerializer, examples=[schema.example_of_run(stopping=True)])},
        errors=[404],
        parameters=[ID],
    )
    def get(self, request: Request, id: str) -> Response:
        """The run, with its stop receipt once a stop was requested."""
        run = get_for_wire(read_id(id), self.user)
        if not run.may_be_seen_by(self.user):
            raise RunRecord.DoesNotExist
        return Response(run_as_dict(run))


class EventsView(ApiView):
    renderer_classes: Any = [JsonRenderer, ServerSentEventRenderer]

    @schema.operation(
        "list_events",
        "Read a run's log, or follow it",
        "runs",
        {
            (200, "application/json"): schema.EventPageSerializer,
            (200, "text/event-stream"): event_stream.RESPONSE,
        },
        errors=[404],
        wrong=["invalid_filter"],
        quotas=["quota_feeds"],
        parameters=[
            ID,
            OpenApiParameter(
                "after",
                {"type": "integer", "minimum": 0, "default": 0},
                description="The `seq` after which to start.",
            ),
            *event_stream.PARAMETERS,
            OpenApiParameter(
                "limit",
                {"type": "integer", "minimum": 1, "default": EVENT_COUNT},
                description=f"More than {MOST_EVENTS} is cut to that.",
            ),
        ],
    )
    def get(self, request: Request, id: str) -> HttpResponseBase:
        """The events after `after`, in order. Ask again after the last one until `ended`.

        A page may have fewer than `limit` events, if they are large: it has some megabytes at most.

        With `Accept: text/event-stream` the answer lasts until the run is over: the events so far,
        then the next ones, each event once. `Last-Event-ID` resumes a stream that broke off.
        """
        run = read_id(id)
        if event_stream.is_wanted(request):
            return event_stream.respond(request, run)
        parameters.refuse_unknown(request, {"after", "limit"})
        after = parameters.whole_number(
            request, "after", default=0, at_least=0, at_most=LARGEST_SEQ
        )
        limit = parameters.whole_number(
            request, "limit", default=EVENT_COUNT, at_least=1, at_most=MOST_EVENTS
        )
        runs = RunRecord.objects.visible_to(self.user).filter(pk=run)
        if not runs.exists():
            raise Http404
        # The events before the record: last_seq then counts events that were written in between.
        # In the other order a page could say too early that it is the last.
        page = [
            json.loads(event)
            for event in events.read_as_json(
                run, after=after, limit=limit, most_characters=MOST_PAGE_BYTES
            )
        ]
        record = runs.only("status", "last_seq", "log_removed_at").get()
        seen = page[-1]["seq"] if page else after
        is_last = seen >= record.last_seq or record.log_removed_at is not None
        return Response(
            {
                "results": page,
                "last_seq": record.last_seq,
                "ended": record.is_terminal and is_last,
            }
        )

    def options(self, request: Request, *args: Any, **kwargs: Any) -> Response:  # type: ignore[override]  # of Django's View
        event_stream.refuse_in_json(request)
        return super().options(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Response:
        event_stream.refuse_in_json(self.request)
        return super().handle_exception(exc)


def read_id(text: str) -> uuid.UUID:
    """Read an id of an address; there is nothing at an address whose id can't be one."""
    try:
        return UuidField().to_internal_value(text)
    except ValidationError:
        raise Http404 from None


def read_idempotency_key(request: Request) -> str | None:
    """Return the request's Idempotency-Key, None if it has none.

    Raises:
        ValidationError: it is empty, too long, or has characters that headers should not have.
    """
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        message = "1 to 255 printable ASCII characters are expected."
        raise ValidationError({"Idempotency-Key": [message]})
    return key
