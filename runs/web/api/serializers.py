"""The serializers of responses, for OpenAPI; those of runs and events follow ``runs.wire``."""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from rest_framework import serializers

from agents.wire import CallInfo, ErrorInfo, EventOnWire, Form
from runs import wire

from .requests.fields import AnyJsonField

__all__ = ["AgentSerializer", "EventSerializer", "OutcomeSerializer", "RunSerializer"]


class AgentSerializer(serializers.Serializer):
    """An agent that can be run."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    input_schema = serializers.DictField(help_text="JSON Schema of the `input` of its runs.")
    output_schema = serializers.DictField(help_text="JSON Schema of the `result` of its runs.")


#: The names of the shapes in the OpenAPI document.
_COMPONENTS: dict[type, str] = {
    wire.CleanupError: "CleanupError",
    ErrorInfo: "ErrorInfo",
    EventOnWire: "Event",
    CallInfo: "Call",
    wire.OutcomeOnWire: "Outcome",
    wire.RunOnWire: "Run",
    wire.StopReceipt: "Receipt",
    wire.Usage: "Usage",
}
_FIELDS: dict[Any, type[serializers.Field]] = {
    Any: AnyJsonField,
    bool: serializers.BooleanField,
    dict: serializers.DictField,
    int: serializers.IntegerField,
    str: serializers.CharField,
}
_FIELDS_BY_FORMAT: dict[str, type[serializers.Field]] = {
    "instant": serializers.DateTimeField,
    "uuid": serializers.UUIDField,
}


@cache
def _serializer_of(shape: type) -> type[serializers.Serializer]:
    """Make the serializer of a TypedDict. Its docstring describes the component."""
    hints = get_type_hints(shape, include_extras=True)
    fields = {name: _field_of(hint) for name, hint in hints.items()}
    name = f"{_COMPONENTS[shape]}Serializer"
    return type(name, (serializers.Serializer,), {**fields, "__doc__": shape.__doc__})


def _field_of(hint: Any, **options: Any) -> serializers.Field:
    """Make the field of a type hint. ``options`` are those that the hint around it has given."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return _serializer_of(hint)(**options)
    if origin is NotRequired:  # a door may leave it out; the API never does
        return _field_of(inner[0], **options)
    if origin is list:
        return _field_of(inner[0], many=True, **options)
    if origin is Literal:
        return serializers.ChoiceField(inner, **options)
    if NoneType in inner:
        return _field_of(inner[0], allow_null=True, **options)
    if origin is not Annotated:
        return _FIELDS[origin or hint](**options)

    form = Form()
    for note in hint.__metadata__:
        if isinstance(note, Form):
            form = note
        else:
            options["help_text"] = note
    if form.words:
        return serializers.ChoiceField(form.words, **options)
    if form.format:
        return _FIELDS_BY_FORMAT[form.format](**options)
    limits = {
        "min_value": form.at_least,
        "max_value": form.at_most,
        "max_length": form.longest,
    }
    return _field_of(inner[0], **{k: v for k, v in limits.items() if v is not None}, **options)


EventSerializer = _serializer_of(EventOnWire)
OutcomeSerializer = _serializer_of(wire.OutcomeOnWire)
RunSerializer = _serializer_of(wire.RunOnWire)
