"""The serializers of responses, for OpenAPI; ``runs.wire`` and ``agents.wire`` have the shapes."""

from __future__ import annotations

from dataclasses import asdict
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

from agents.wire import EventOnWire
from runs import wire

from .requests.fields import AnyJsonField

__all__ = [
    "AgentSerializer",
    "EventSerializer",
    "ListedRunSerializer",
    "OutcomeSerializer",
    "RunSerializer",
]


class AgentSerializer(serializers.Serializer):
    """An agent that can be run."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    input_schema = serializers.DictField(help_text="JSON Schema of the `input` of its runs.")
    output_schema = serializers.DictField(help_text="JSON Schema of the `result` of its runs.")


#: By type, or by the ``format`` of a ``Form``.
_FIELDS: dict[Any, type[serializers.Field]] = {
    Any: AnyJsonField,
    bool: serializers.BooleanField,
    dict: serializers.DictField,
    float: serializers.FloatField,
    int: serializers.IntegerField,
    str: serializers.CharField,
    "instant": serializers.DateTimeField,
    "uuid": serializers.UUIDField,
}


@cache
def _serializer_of(shape: type) -> type[serializers.Serializer]:
    """Make the serializer of a TypedDict, whose name and docstring OpenAPI shows."""
    hints = get_type_hints(shape, include_extras=True)
    fields = {name: _field_of(hint) for name, hint in hints.items()}
    name = f"{shape.__name__.removesuffix('OnWire')}Serializer"
    return type(name, (serializers.Serializer,), {**fields, "__doc__": shape.__doc__})


def _field_of(hint: Any, **options: Any) -> serializers.Field:
    """Make the field of a type hint. ``options`` come from the hint around it."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return _serializer_of(hint)(**options)
    if origin is NotRequired:  # only lists leave it out: ListedRunSerializer
        return _field_of(inner[0], **options)
    if origin is list:
        if is_typeddict(inner[0]):
            return _field_of(inner[0], many=True, **options)
        return serializers.ListField(child=_field_of(inner[0]), **options)
    if origin is Literal:
        return serializers.ChoiceField(inner, **options)
    if NoneType in inner:
        return _field_of(inner[0], allow_null=True, **options)
    if origin is not Annotated:
        return _FIELDS[origin or hint](**options)

    for note in hint.__metadata__:
        given = {"help_text": note} if isinstance(note, str) else asdict(note)
        options |= {name: value for name, value in given.items() if value is not None}
    if "choices" in options:
        return serializers.ChoiceField(**options)
    if format := options.pop("format", None):
        return _FIELDS[format](**options)
    return _field_of(inner[0], **options)


EventSerializer = _serializer_of(EventOnWire)
OutcomeSerializer = _serializer_of(wire.OutcomeOnWire)
RunSerializer = _serializer_of(wire.RunOnWire)


def _of_lists() -> type[serializers.Serializer]:
    hints = get_type_hints(wire.RunOnWire, include_extras=True)
    fields = {name: _field_of(hints[name], required=False) for name in wire.LARGE}
    doc = "A run in a list: `include` adds what is not required."
    return type("ListedRunSerializer", (RunSerializer,), {**fields, "__doc__": doc})


ListedRunSerializer = _of_lists()
