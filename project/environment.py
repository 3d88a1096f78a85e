"""Turn environment variables into settings, or name the one that is wrong.

``settings.py`` passes the real environment in; this module never reads it. An empty variable counts
as not set: container tools produce such variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured
from pydantic import Field, TypeAdapter, ValidationError

from agents.values.addresses import AllowList

__all__ = ["Environment"]

T = TypeVar("T")

_RATE = re.compile(r"(?P<count>\d+)\s*/\s*(?P<period>s|sec|second|m|min|minute|h|hour|d|day)")


class Environment:
    """Reads environment variables as values of a type.

    Each method raises ImproperlyConfigured for a value that it can't read. The message names the
    variable and the accepted values, and never repeats a value that may hold a password.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str = "") -> str:
        """Read a string, without the white space around it."""
        return self._variables.get(name, "").strip() or default

    def switch(self, name: str, *, default: bool) -> bool:
        """Read a switch: 1/0, true/false, yes/no, on/off, in any case."""
        accepted = "1 or 0, true or false, yes or no, on or off"
        return self._parse(name, bool, default, accepted)

    def whole_number(self, name: str, default: int, *, at_least: int) -> int:
        """Read an integer."""
        accepted = f"a whole number of at least {at_least}"
        return self._parse(name, Annotated[int, Field(ge=at_least)], default, accepted)

    def seconds(self, name: str, default: float, *, at_least: float) -> float:
        """Read a duration in seconds, which may be a fraction."""
        accepted = f"a number of seconds, at least {at_least:g}"
        type_ = Annotated[float, Field(ge=at_least, allow_inf_nan=False)]
        return self._parse(name, type_, default, accepted)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Read one of ``choices``, in any case; the first one is the default."""
        value = self.text(name, choices[0]).lower()
        if value not in choices:
            raise _wrong(name, value, " or ".join(choices))
        return value

    def words(self, name: str) -> list[str]:
        """Read a list of words separated by commas."""
        return [word for part in self.text(name).split(",") if (word := part.strip())]

    def reachable(self, name: str) -> list[str]:
        """Read hosts, addresses and networks separated by commas; ``*`` is all of them."""
        entries = self.words(name)
        try:
            AllowList(entries)
        except ValueError as error:
            accepted = "hosts, addresses or networks separated by commas, or *"
            raise ImproperlyConfigured(f"{name}: {error}. Accepted: {accepted}.") from error
        return entries

    def rate(self, name: str, default: str) -> str | None:
        """Read a count per period, as ``600/min``; ``0`` gives None, which is no limit."""
        value = self.text(name, default).lower()
        if value == "0":
            return None
        match = _RATE.fullmatch(value)
        if match is None:
            raise _wrong(
                name, value, "a count per second, min, hour or day as in 600/min; 0 is off"
            )
        if int(match["count"]) == 0:
            return None
        return f"{match['count']}/{match['period']}"

    def http_url(self, name: str) -> str:
        """Read an http or https address, without the slash at its end."""
        value = self.text(name)
        parts = _split(value)
        if value and not (parts and parts.scheme in {"http", "https"} and parts.hostname):
            raise _wrong(name, None, "an address that begins with http:// or https://")
        return value.rstrip("/")

    def redis_url(self, name: str) -> str:
        """Read a Redis address."""
        value = self.text(name)
        parts = _split(value)
        if value and not (parts and parts.scheme in {"redis", "rediss", "unix"}):
            raise _wrong(name, None, "redis://, rediss:// or unix:// and where Redis is")
        return value

    def database(self, name: str) -> dict[str, Any] | None:
        """Read a database address as an entry of DATABASES; None when there is none."""
        value = self.text(name)
        if not value:
            return None
        expected = "postgres://user:password@host:port/name or sqlite:////path/to/file"
        if value.partition(":")[0] not in {"postgres", "postgresql", "sqlite"}:
            raise _wrong(name, None, expected)
        try:
            database: dict[str, Any] = {**dj_database_url.parse(value)}
        except ValueError:
            # `from None`: the cause would repeat the address, which holds the password.
            raise _wrong(name, None, f"{expected}, with special signs percent-encoded") from None
        if database["NAME"] in {"", ":memory:"}:
            # Each thread, the worker's included, would see an empty database of its own.
            raise _wrong(name, None, f"{expected}; it must name a database, and not :memory:")
        return database

    def _parse(self, name: str, type_: Any, default: T, accepted: str) -> T:
        value = self.text(name)
        try:
            return TypeAdapter(type_).validate_python(value) if value else default
        except ValidationError:
            raise _wrong(name, value, accepted) from None


def _split(value: str) -> SplitResult | None:
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises, too
    except ValueError:
        return None
    return parts


def _wrong(name: str, value: str | None, accepted: str) -> ImproperlyConfigured:
    shown = "" if value is None else f"={value!r}"
    return ImproperlyConfigured(f"{name}{shown} is not understood. Accepted: {accepted}.")
