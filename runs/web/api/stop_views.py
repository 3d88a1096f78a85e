"""The views that stop runs."""

from __future__ import annotations

from collections import Counter

from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.request import Request
from rest_framework.response import Response

from runs.actions import stopping
from runs.delivery.ends import wait_until_over
from runs.models import RunRecord, StopVia
from runs.web.feed import NoPlace, Place, Viewer
from runs.web.late import can_be_late
from runs.wire import BULK_WORDS, get_for_wire, run_as_dict

from . import schema
from .event_stream import proof_of
from .requests import bodies, inputs, parameters
from .requests.filters import filter_runs
from .serializers import RunSerializer
from .throttling import StopThrottle
from .views import ID, ApiView, read_id
from .waiting import answer_when_over

__all__ = ["StopManyView", "StopView"]

MOST_WAIT_SECONDS = 60


class StopView(ApiView):
    #: The door that the receipt will name.
    via = StopVia.API
    throttle_classes = [StopThrottle]

    @schema.operation(
        "stop_run",
        "Stop a run",
        "stopping",
        {
            202: OpenApiResponse(
                RunSerializer,
                "The request to stop is committed, or was before.",
                [schema.example_of_run(stopping=True)],
            ),
            200: OpenApiResponse(RunSerializer, "It was waited for, and the run is over."),
        },
        errors=[403, 404, 409, 413, 415],
        wrong=["invalid_json", "invalid_input", "invalid_filter"],
        parameters=[
            ID,
            OpenApiParameter(
                "Wait-Refused",
                str,
                OpenApiParameter.HEADER,
                response=[202],
                description="The run stops, but so many requests of yours wait that this one "
                "may not: `quota_waiters`, and how many there are.",
            ),
            OpenApiParameter(
                "wait",
                {"type": "number", "minimum": 0},
                description=(
                    "Answer when the run is over, or after this many seconds. "
                    f"More than {MOST_WAIT_SECONDS} is cut to that."
                ),
            ),
        ],
        request=inputs.StopSerializer,
        examples=[
            OpenApiExample("Why", {"reason": "The wrong document."}, request_only=True),
            OpenApiExample("Cut the call in flight", {"mode": "abort"}, request_only=True),
            OpenApiExample(
                "Harder by itself", {"abort_after": 10, "abandon_after": 60}, request_only=True
            ),
        ],
    )
    def post(self, request: Request, id: str) -> HttpResponseBase:
        """Ask a run, and all that it has called, to stop.

        With `graceful` the call in flight is finished and recorded, and the next one refused;
        `abort` cuts the call in flight, too; `abandon` ends the run at once, whether its code
        comes back or not. A second request with a harder mode makes the stop harder; any other is
        accepted, too, and changes nothing. Neither changes who asked first, nor why.
        """
        run = read_id(id)
        parameters.refuse_unknown(request, {"wait"})
        wait = parameters.seconds(request, "wait", at_most=MOST_WAIT_SECONDS)
        body = bodies.read(request, inputs.StopSerializer)
        result = stopping.request_stop(run, via=self.via, by=self.user, **body)
        answer = Response(run_as_dict(result.run), status=202)
        if wait is None:
            return answer
        try:
            place = Place("waiters", self.user.pk)
        except NoPlace as error:  # the run stops all the same
            answer.headers["Wait-Refused"] = f"quota_waiters; {error}"
            return answer
        if can_be_late(request._request):
            viewer = Viewer(self.user.pk, run=run, **proof_of(request))
            return answer_when_over(viewer, wait, place)
        try:
            is_over = wait_until_over(run, wait)
        finally:
            place.leave()
        return Response(run_as_dict(get_for_wire(run)), status=200 if is_over else 202)


class StopManyView(ApiView):
    throttle_classes = [StopThrottle]

    @schema.operation(
        "stop_runs",
        "Stop many runs",
        "stopping",
        {202: schema.StopManyResultSerializer},
        errors=[403, 413, 415],
        wrong=["invalid_json", "invalid_input"],
        request=schema.STOP_MANY,
        examples=[
            OpenApiExample(
                "By filter",
                {"filter": {"agent": "summarise", "status": ["running"]}, "reason": "Enough."},
                request_only=True,
            ),
            OpenApiExample("By id", {"ids": [str(schema.EXAMPLE_ID)]}, request_only=True),
        ],
    )
    def post(self, request: Request) -> Response:
        """Ask many runs to stop; one outcome for each. To send it again does no harm."""
        body = bodies.read(request, inputs.stop_many_serializer)
        ids = body.pop("ids", None)
        wanted = body.pop("filter", None)
        if wanted is not None:
            active = RunRecord.objects.visible_to(self.user).active()
            ids = list(filter_runs(active, wanted).values_list("pk", flat=True))
        outcomes = stopping.stop_many(ids, by=self.user, via=StopVia.API, **body)
        counts = Counter(one.outcome for one in outcomes)
        answer = {
            "outcomes": [{"id": one.id, "outcome": one.outcome} for one in outcomes],
            "counts": {word: counts[word] for word in BULK_WORDS},
        }
        return Response(answer, status=202)
