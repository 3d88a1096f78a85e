"""What an agent's signature means: JSON Schemas, and values that are read and written by them.

The one module that knows pydantic's strictness. It knows functions, but no agent, registry or run.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, NotRequired

import pydantic
import pydantic_core
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict  # typing's own only from Python 3.12, says pydantic

from .values import json_kinds, jsonable

__all__ = ["CannotDescribe", "Signature", "local_names", "read", "where"]

Reason = tuple[str, str]  # a problem and a hint
Fields = dict[str, list[str]]

_LONGEST_DEFAULT: Final = 10_000  # characters of JSON, in a schema
_LONGEST_MESSAGE: Final = 500
_MOST_FIELDS: Final = 100
_MOST_ERRORS: Final = 10_000


class CannotDescribe(Exception):
    """The signature means no JSON Schema; ``reasons`` has pairs of a problem and a hint."""

    def __init__(self, reasons: list[Reason]) -> None:
        super().__init__("; ".join(message for message, _ in reasons))
        self.reasons = reasons


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """The two sides of a function, as JSON."""

    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    _input: pydantic_core.SchemaValidator
    _output: pydantic.TypeAdapter[Any]

    def read_input(self, value: object) -> tuple[Fields, dict[str, Any]]:
        """Return the problems of the input, by path; without any, the arguments."""
        problems = jsonable.check(value, "input")
        if problems:
            return problems, {}
        if not isinstance(value, dict):
            return {"input": ["An object with the agent's parameters is expected."]}, {}
        try:
            return {}, self._arguments(value)
        except pydantic.ValidationError as error:
            return _fields(error, value), {}
        except Exception as error:  # from a validator of the author's
            message = f"This could not be checked: {jsonable.error_text(error, _LONGEST_MESSAGE)}"
            return {"input": [message]}, {}

    def _arguments(self, value: dict[str, Any]) -> dict[str, Any]:
        tries_left = 3  # an error may hide the next one
        while True:
            # Strict Python mode would refuse text for a date; only JSON mode knows that JSON has
            # no other way to say it. So back to JSON: 70 ms for 8 MiB.
            encoded = pydantic_core.to_json(value)
            try:
                arguments: dict[str, Any] = self._input.validate_json(encoded, strict=True)
                return arguments
            except pydantic.ValidationError as error:
                tries_left -= 1
                mended = json_kinds.with_integers(error, value)
                if mended is value or not tries_left:
                    raise
                value = mended

    def write_output(self, value: object) -> Any:
        """Return the JSON value of what the function returned.

        Raises:
            ValueError: it is not of the annotated type, or JSON can't hold it.
        """
        try:
            return jsonable.dump(self._typed(value), "output", self._output)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise ValueError(f"{_path('output', first['loc'], value)}: {first['msg']}") from error

    def _typed(self, value: object) -> Any:
        try:
            return self._output.validate_python(value, strict=True)
        except pydantic.ValidationError:
            # Perhaps a dict for a model, or a text that is not quite Unicode: as JSON, it may fit.
            encoded = pydantic_core.to_json(jsonable.dump(value, "output"))
            return self._output.validate_json(encoded, strict=True)


def read(function: Callable[..., Any], names: dict[str, Any], title: str) -> Signature:
    """Work out what a function takes after ``tools``, and what it returns.

    Annotations may use ``names`` besides the module's own. The annotation of ``tools`` is never
    evaluated: it may be importable only while type checking.

    Raises:
        CannotDescribe: the signature means no JSON Schema.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        hint = "Return the result, and report with tools.progress()."
        raise CannotDescribe([("It yields, and an agent returns.", hint)])
    try:
        signature = _signature(function)
    except Exception as error:
        raise CannotDescribe([(f"The signature can't be read: {_text(error)}", "")]) from error
    reasons = list(_wrong_shape(signature))
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue  # among the reasons by now
        try:
            annotation, adapter = _read_parameter(function, names, parameter)
        except CannotDescribe as refusal:
            reasons += refusal.reasons
            continue
        fields[parameter.name] = annotation
        if parameter.default is not parameter.empty:
            fields[parameter.name] = NotRequired[annotation]
            defaults[parameter.name] = _default_json(adapter, parameter.default)
    try:
        returned = signature.return_annotation
        returned = Any if returned is signature.empty else returned
        what = "What it returns"
        output = _adapter(_evaluated(function, names, what, returned), what, "serialization")
    except CannotDescribe as refusal:
        reasons += refusal.reasons
    if reasons:
        raise CannotDescribe(reasons)
    # A TypedDict, not a model: it may have any names (json, model_config), and gives a dict in
    # which defaults are missing, so that the function itself fills them.
    make_typed_dict: Any = TypedDict  # mypy knows literals only
    typed = make_typed_dict("Input", fields)
    typed.__pydantic_config__ = pydantic.ConfigDict(extra="forbid")
    arguments = _adapter(typed, "The input", "validation")
    return Signature(
        input_schema=_finished(_schema(arguments, "validation"), title, defaults),
        output_schema=_schema(output, "serialization"),
        _input=pydantic_core.SchemaValidator(json_kinds.as_published(arguments.core_schema)),
        _output=output,
    )


def _read_parameter(
    function: Callable[..., Any], names: dict[str, Any], parameter: inspect.Parameter
) -> tuple[Any, pydantic.TypeAdapter[Any]]:
    what = f"The parameter {parameter.name}"
    if parameter.annotation is parameter.empty:
        raise CannotDescribe([(f"{what} has no annotation.", "Say its type; Any takes anything.")])
    annotation = _evaluated(function, names, what, parameter.annotation)
    _refuse_misplaced(parameter.name, annotation, parameter.default)
    return annotation, _adapter(annotation, what, "validation")


def local_names(function: Callable[..., Any], caller_locals: dict[str, Any]) -> dict[str, Any]:
    """Pick from the locals around a function what its annotations, if they are text, may name."""
    if "<locals>" not in getattr(function, "__qualname__", ""):
        return {}
    try:
        parameters = list(_signature(function).parameters.values())[1:]
        annotations = [parameter.annotation for parameter in parameters]
        annotations.append(_signature(function).return_annotation)
        words = set(re.findall(r"\w+", " ".join(map(str, annotations))))
    except Exception:  # read() will refuse it, with the reason
        return {}
    return {name: value for name, value in caller_locals.items() if name in words}


def where(function: Callable[..., Any]) -> str:
    """Return file:line of a function, as far as it has one."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        line = inspect.getsourcelines(function)[1]
        return f"{inspect.getsourcefile(function)}:{line}"
    except (OSError, TypeError):
        return str(getattr(function, "__module__", "?"))


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # annotations are evaluated when they are asked for: don't
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _wrong_shape(signature: inspect.Signature) -> Iterator[Reason]:
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].name != "tools" or parameters[0].kind not in positional:
        yield "Its first parameter is not tools.", "Write: async def name(tools: Tools, ...)."
    for parameter in parameters[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            yield f"*{parameter.name} has no name in JSON.", "Take a list instead."
        elif parameter.kind is parameter.VAR_KEYWORD:
            yield f"**{parameter.name} can't be described.", "Take a dict, or name the parameters."
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            yield f"{parameter.name} is positional-only.", "Input comes by name: move the /."


def _evaluated(
    function: Callable[..., Any], names: dict[str, Any], what: str, annotation: object
) -> Any:
    """Evaluate one annotation, if it is text or holds text."""

    def carrier() -> None: ...

    carrier.__annotations__ = {"it": annotation}
    module_names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        hints = typing.get_type_hints(
            carrier, globalns=module_names, localns=names, include_extras=True
        )
    except Exception as error:
        message = f"{what} is annotated {_text(annotation)}, which can't be evaluated: "
        hint = "Import the name at run time, not only while type checking."
        raise CannotDescribe([(message + _text(error), hint)]) from error
    return hints["it"]


_UNREADABLE: Final = {
    # The agent would read it while it runs, when it is too late to refuse the input.
    "generator": "Write list[...] instead of an iterable.",
    "is-subclass": "JSON has no classes.",
}


def _adapter(
    annotation: Any, what: str, mode: typing.Literal["validation", "serialization"]
) -> pydantic.TypeAdapter[Any]:
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
        schema = _schema(adapter, mode)
        core_schema = adapter.core_schema
    except Exception as error:
        reason = _text(error).partition("\n")[0].partition(". Set `arbitrary_types")[0]
        raise CannotDescribe(
            [(f"{what} has a type without JSON: {reason}", "Use JSON's or pydantic's types.")]
        ) from error
    for kind, hint in _UNREADABLE.items():
        if _contains(core_schema, kind):
            raise CannotDescribe([(f"{what} has a type that JSON can't hold.", hint)])
    problems = jsonable.check(schema, "schema")
    for path, messages in problems.items():
        raise CannotDescribe([(f"{what} has a schema that is not JSON: {path}: {messages[0]}", "")])
    return adapter


def _contains(core_schema: Any, kind: str) -> bool:
    """Tell whether pydantic uses such a schema when it reads JSON strictly."""
    stack: list[Any] = [core_schema]
    seen: set[int] = set()
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            if part.get("type") == kind:
                return True
            skipped = {"python_schema", "lax_schema", "metadata", "serialization"}
            stack.extend(value for key, value in part.items() if key not in skipped)
        elif isinstance(part, (list, tuple)):
            stack.extend(part)
    return False


def _refuse_misplaced(name: str, annotation: Any, default: object) -> None:
    """Refuse a pydantic Field with a default or an alias: plain calls would not have it."""
    if isinstance(default, FieldInfo):
        hint = f"Write {name}: Annotated[type, Field(...)] = value, so that plain calls work too."
        raise CannotDescribe([(f"The default of {name} is a Field.", hint)])
    extras = annotation.__metadata__ if typing.get_origin(annotation) is Annotated else ()
    for extra in extras:
        if isinstance(extra, FieldInfo):
            if not extra.is_required():
                message = f"The default of {name} stands in a Field."
                raise CannotDescribe([(message, "Put it after a =.")])
            if extra.validation_alias:  # set by alias= as well
                message = f"The parameter {name} has an alias."
                raise CannotDescribe([(message, "Rename the parameter itself.")])


class _QuietSchema(GenerateJsonSchema):
    """Says how a text is a Decimal; leaves out defaults that JSON can't hold without a warning."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        described: dict[str, Any] = super().decimal_schema(schema)
        for choice in described.get("anyOf", ()):
            if choice.get("type") == "string":
                choice.setdefault("pattern", json_kinds.DECIMAL_PATTERN)
        return described


def _schema(
    adapter: pydantic.TypeAdapter[Any], mode: typing.Literal["validation", "serialization"]
) -> dict[str, Any]:
    return adapter.json_schema(mode=mode, schema_generator=_QuietSchema)


def _default_json(adapter: pydantic.TypeAdapter[Any], default: object) -> tuple[Any, ...]:
    """Return the default as JSON, or nothing if it would be no valid or no handy input."""
    for of_type in (adapter, None):  # () is no list[str], but its JSON is
        with suppress(Exception):
            plain = jsonable.dump(default, "default", of_type)
            encoded = pydantic_core.to_json(plain)
            adapter.validate_json(encoded, strict=True)
            return (plain,) if len(encoded) <= _LONGEST_DEFAULT else ()
    return ()


def _finished(
    schema: dict[str, Any], title: str, defaults: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    schema["title"] = title
    for name, described in schema["properties"].items():
        # Enums and models come as a bare $ref, without a title of their own.
        described.setdefault("title", name.replace("_", " ").strip().title())
        if defaults.get(name):
            described["default"] = defaults[name][0]
    return schema


def _fields(error: pydantic.ValidationError, value: object) -> Fields:
    """Put pydantic's errors under paths of the input."""
    count = error.error_count()
    if count > _MOST_ERRORS:  # listing two million of them takes six seconds
        return {"input": [f"There are {count:,} problems, too many to list."]}
    fields: Fields = {}
    listed = 0
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        path = _path("input", one["loc"], value, missing=one["type"] == "missing")
        if path not in fields and len(fields) >= _MOST_FIELDS:
            continue
        listed += 1
        message = _MESSAGES.get(one["type"]) or one["msg"]
        fields.setdefault(path, []).append(jsonable.clean_text(message, _LONGEST_MESSAGE))
    if listed < count:
        fields.setdefault("input", []).append(f"And {count - listed:,} more problems.")
    return fields


_MESSAGES: Final = {
    "missing": "This field is required.",
    "extra_forbidden": "There is no such field.",
}


def _path(root: str, loc: tuple[int | str, ...], value: Any, *, missing: bool = False) -> str:
    """Follow a location of pydantic's through the value.

    It also names branches of unions and validators, which the value doesn't have: left out.
    """
    path = root
    for index, step in enumerate(loc):
        in_dict = isinstance(value, dict) and step in value
        if in_dict or (isinstance(value, (list, tuple)) and step in range(len(value))):
            value = value[step]
        elif not (missing and index == len(loc) - 1):
            continue
        path = jsonable.child_path(path, step)
    return path


def _text(value: object) -> str:
    if isinstance(value, BaseException):
        return jsonable.error_text(value, _LONGEST_MESSAGE)
    return str(jsonable.clean(value, max_string=_LONGEST_MESSAGE))
