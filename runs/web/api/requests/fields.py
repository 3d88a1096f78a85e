"""Serializer fields that are as strict as the contract."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

from django.utils.dateparse import parse_datetime
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

__all__ = [
    "AnyJsonField",
    "InstantField",
    "NumberField",
    "StrictSerializer",
    "TextField",
    "UuidField",
    "WholeNumberField",
]


class TextField(serializers.CharField):
    """Text; no value is converted to it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(trim_whitespace=False, **options)

    def to_internal_value(self, data: object) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text: str = super().to_internal_value(data)
        return text


class WholeNumberField(serializers.IntegerField):
    """An integer as JSON Schema has it: ``1``, ``1.0``, ``1e2``; not ``"1"`` or ``true``."""

    def to_internal_value(self, data: object) -> int:
        if type(data) is float and data.is_integer():
            return int(data)
        if type(data) is not int:
            self.fail("invalid")
        return data


class NumberField(serializers.FloatField):
    """A number as JSON has it; not ``"1"``, ``true`` or NaN."""

    def to_internal_value(self, data: object) -> float:
        if type(data) not in (int, float):
            self.fail("invalid")
        try:
            number = float(cast(float, data))
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.fail("invalid")
        return number


class UuidField(serializers.UUIDField):
    """A UUID with its hyphens; Python's parser also takes braces, URNs and more."""

    def to_internal_value(self, data: object) -> uuid.UUID:
        if not isinstance(data, str) or len(data) != 36:
            self.fail("invalid", value=data)
        parsed: uuid.UUID = super().to_internal_value(data)
        if str(parsed) != data.lower():
            self.fail("invalid", value=data)
        return parsed


class InstantField(serializers.DateTimeField):
    """An instant as ISO 8601, in UTC unless it has an offset."""

    _TAKEN_FOR_A_SPACE = re.compile(r"(?<=\d) (?=\d\d:\d\d\Z)")

    def to_internal_value(self, value: object) -> datetime:
        if not isinstance(value, str):
            self.fail("invalid", format="ISO 8601")
        if "T" in value:  # 2026-01-31T12:00:00+00:00 in a URL whose + is not escaped
            value = self._TAKEN_FOR_A_SPACE.sub("+", value)
        try:
            instant = parse_datetime(value)
            if instant is not None:
                return instant.replace(tzinfo=instant.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        return self.fail("invalid", format="ISO 8601")


@extend_schema_field(OpenApiTypes.ANY)
class AnyJsonField(serializers.Field):
    """Any JSON value, null too; other code checks it."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return super().run_validation(data) if data is serializers.empty else data


class StrictSerializer(serializers.Serializer):
    """Refuses unknown fields: most are typing errors."""

    #: Added to its JSON Schema.
    schema_extra: ClassVar[dict[str, Any]] = {}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping) and (unknown := data.keys() - self.fields.keys()):
            raise serializers.ValidationError(
                {name: ["There is no such field."] for name in sorted(unknown)[:100]}
            )
        return super().to_internal_value(data)


class _StrictScheme(OpenApiSerializerExtension):
    target_class = StrictSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)  # type: ignore[no-untyped-call]
        return {**schema, "additionalProperties": False, **self.target.schema_extra}
