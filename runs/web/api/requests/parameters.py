"""Read query parameters. All functions raise ``InvalidFilter``."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from django.http import QueryDict
from rest_framework.request import Request

from runs.web.api.errors import InvalidFilter
from runs.wire import LARGE, RESULTS

from .filters import RunFilterSerializer

__all__ = [
    "INCLUDE_WORDS",
    "SWITCHES",
    "include",
    "refuse_unknown",
    "run_filter",
    "seconds",
    "switch",
    "whole_number",
]

#: The words of a switch; sockets read theirs by it, too.
SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

#: What ``include`` adds to a list, by its words.
INCLUDE_WORDS = {**{name: (name,) for name in LARGE}, "result": RESULTS}

_WHOLE_NUMBER = re.compile(r"[0-9]+")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def refuse_unknown(request: Request, known: Collection[str]) -> None:
    """Refuse unknown parameters, and known ones that are given twice."""
    given = request.query_params
    wrong = {name: ["There is no such parameter."] for name in given if name not in known}
    for name in given:
        if name in known and name != "status" and len(given.getlist(name)) > 1:
            wrong[name] = ["This is given more than once."]
    if wrong:
        raise InvalidFilter(wrong)


def whole_number(request: Request, name: str, *, default: int, at_least: int, at_most: int) -> int:
    """Read a whole number; one that is too large counts as ``at_most``."""
    text = request.query_params.get(name)
    if text is None:
        return default
    # Python reads up to 4,300 digits.
    value = int(text[:4000]) if _WHOLE_NUMBER.fullmatch(text) else -1
    if value < at_least:
        raise InvalidFilter({name: [f"A whole number from {at_least} is expected."]})
    return min(value, at_most)


def seconds(request: Request, name: str, *, at_most: float) -> float | None:
    """Read a duration; a longer one counts as ``at_most``. None: it is not given."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise InvalidFilter({name: ["A number of seconds from 0 is expected."]})
    return min(float(text), at_most)


def switch(request: Request, name: str) -> bool:
    """Read a switch that is off unless it is given."""
    text = request.query_params.get(name, "0").lower()
    if text not in SWITCHES:
        raise InvalidFilter({name: ["1 or 0 is expected."]})
    return SWITCHES[text]


def include(request: Request) -> frozenset[str]:
    """Read which of the large fields a list is to have, for ``run_as_dict``."""
    text = request.query_params.get("include")
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if word not in INCLUDE_WORDS:
            known = ", ".join(INCLUDE_WORDS)
            raise InvalidFilter({"include": [f'"{word}" can\'t be included. There are: {known}.']})
    return frozenset(name for word in words for name in INCLUDE_WORDS[word])


def run_filter(request: Request) -> dict[str, Any]:
    """Read the filters of a list of runs, for ``filter_runs``."""
    given: QueryDict = request.query_params
    known = RunFilterSerializer().fields.keys() & given.keys()
    data: dict[str, Any] = {
        name: given.getlist(name) if name == "status" else given[name] for name in known
    }
    serializer = RunFilterSerializer(data=data)
    if not serializer.is_valid():
        raise InvalidFilter(serializer.errors)
    validated: dict[str, Any] = serializer.validated_data
    return validated
