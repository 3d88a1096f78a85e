"""The view that changes the limits of a run."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample
from rest_framework.request import Request
from rest_framework.response import Response

from runs.actions import limits
from runs.wire import run_as_dict

from . import schema
from .requests import bodies, inputs, parameters
from .serializers import RunSerializer
from .views import ID, ApiView, read_id

__all__ = ["LimitsView"]


class LimitsView(ApiView):
    @schema.operation(
        "change_limits",
        "Change the limits of a run",
        "stopping",
        {200: RunSerializer},
        errors=[403, 404, 409, 413, 415],
        wrong=["invalid_json", "invalid_input"],
        parameters=[ID],
        request=inputs.NewLimitsSerializer,
        examples=[OpenApiExample("An hour", {"deadline_seconds": 3600}, request_only=True)],
    )
    def post(self, request: Request, id: str) -> Response:
        """Tighten limits of a run that you may stop; loosen them with `runs.raise_limits`.

        A deadline counts from the run's first start. If it is over by then, the run is asked to
        stop within a second. The runs that it has called get the same deadline, unless their own is
        earlier.
        """
        run = read_id(id)
        parameters.refuse_unknown(request, ())
        given = bodies.read(request, inputs.NewLimitsSerializer)
        return Response(run_as_dict(limits.change_limits(run, given, by=self.user)))
