"""Turn environment variables into settings, or name the one that is wrong.

``settings.py`` passes the real environment in; this module never reads it. An empty variable counts
as not set: container tools produce such variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from pydantic import Field, TypeAdapter, ValidationError

from agents.tools.llm.options import address_problem
from agents.values.addresses import AllowList
from project.environment import addresses
from project.environment.keys import weakness_of

__all__ = ["Environment"]

T = TypeVar("T")
_Number = TypeVar("_Number", int, float)

_RATE = re.compile(r"(?P<count>[0-9]+)\s*/\s*(?P<period>s|sec|second|m|min|minute|h|hour|d|day)")
_HIGHEST_RATE = 1_000_000  # the cache has a number for each request
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Environment:
    """Reads environment variables as values of a type.

    Each method raises ImproperlyConfigured for a value that it can't read, or that could not work.
    The message names the variable and the accepted values, and never repeats a value that may hold
    a password.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._names: set[str] = set()

    def unknown(self, *, prefixes: tuple[str, ...]) -> list[str]:
        """Return the variables with these prefixes that were not read: most likely misspelled."""
        given = (name for name, value in self._variables.items() if value.strip())
        return sorted(n for n in given if n.startswith(prefixes) and n not in self._names)

    def text(self, name: str, default: str = "") -> str:
        """Read a string, without the white space around it."""
        self._names.add(name)
        value = self._variables.get(name, "").strip()
        if _CONTROLS.search(value):
            raise _wrong(name, None, "one line of text, without control characters")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'`":
            # Docker's --env-file and systemd's `Environment=` in some places keep them.
            raise _wrong(name, None, "the value without quotation marks around it")
        return value or default

    def switch(self, name: str, *, default: bool) -> bool:
        """Read a switch: 1/0, true/false, yes/no, on/off, in any case."""
        accepted = "1 or 0, true or false, yes or no, on or off"
        return self._parse(name, bool, default, accepted)

    def whole_number(
        self, name: str, default: int, *, at_least: int, at_most: int | None = None
    ) -> int:
        """Read an integer."""
        accepted = f"a whole number of at least {at_least}"
        found = self._parse(name, Annotated[int, Field(ge=at_least)], default, accepted)
        return _limited(name, found, at_most)

    def seconds(
        self, name: str, default: float, *, at_least: float, at_most: float | None = None
    ) -> float:
        """Read a duration in seconds, which may be a fraction."""
        accepted = f"a number of seconds, at least {at_least:g}"
        type_ = Annotated[float, Field(ge=at_least, allow_inf_nan=False)]
        return _limited(name, self._parse(name, type_, default, accepted), at_most)

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
        if match is None or len(match["count"]) > 9 or int(match["count"]) > _HIGHEST_RATE:
            accepted = (
                "a count per second, min, hour or day as in 600/min, up to a million; 0 is off"
            )
            raise _wrong(name, value, accepted)
        if int(match["count"]) == 0:
            return None
        return f"{match['count']}/{match['period']}"

    def checked(self, name: str, problem_of: Callable[[str], str | None]) -> str:
        """Read a string that ``problem_of`` finds no fault with.

        ``problem_of`` returns what is wrong with a value, as the end of a sentence, or None. It
        doesn't repeat the value, which may be a secret.
        """
        value = self.text(name)
        if value and (problem := problem_of(value)):
            raise ImproperlyConfigured(f"{name} {problem}.")
        return value

    def http_url(self, name: str) -> str:
        """Read an http or https address, without the slash at its end."""
        return self.checked(name, address_problem).rstrip("/")

    def redis_url(self, name: str) -> str:
        """Read a Redis address."""
        return self._read(name, addresses.parse_redis, "")

    def database(self, name: str) -> dict[str, Any] | None:
        """Read a database address as an entry of DATABASES; None when there is none."""
        return self._read(name, addresses.parse_database, None)

    def host_patterns(self, name: str) -> list[str]:
        """Read entries of ALLOWED_HOSTS."""
        return self._checked_words(name, addresses.check_host_pattern)

    def proxies(self, name: str, default: Sequence[str]) -> list[str]:
        """Read addresses and networks of proxies, or ``*`` for all."""
        if self.words(name) == ["*"]:
            return ["*"]
        return self._checked_words(name, addresses.check_proxy) or list(default)

    def listening(self, name: str, default: str) -> str:
        """Read where a process listens."""
        value = self.text(name, default)
        try:
            addresses.check_listening(value)
        except ValueError as error:
            raise _wrong(name, value, str(error)) from None
        return value

    def header_token(self, name: str) -> str:
        """Read a text that a client sends in a header."""
        value = self.text(name)
        if not value.isascii():
            raise _wrong(name, None, "a text of ASCII letters, digits and signs")
        return value

    def secret_key(self, name: str, *, is_any_accepted: bool) -> str:
        """Read a secret key; empty when there is none."""
        value = self.text(name)
        if value and not is_any_accepted and (weakness := weakness_of(value)):
            raise _wrong(name, None, f"a long random text; as it is, it can be guessed: {weakness}")
        return value

    def secret_keys(self, name: str, *, is_any_accepted: bool) -> list[str]:
        """Read secret keys separated by commas."""
        keys = self.words(name)
        for key in keys:
            if not is_any_accepted and (weakness := weakness_of(key)):
                accepted = (
                    f"former secret keys, separated by commas; one can be guessed: {weakness}"
                )
                raise _wrong(name, None, accepted)
        return keys

    def _checked_words(self, name: str, check: Callable[[str], None]) -> list[str]:
        words = self.words(name)
        for word in words:
            try:
                check(word)
            except ValueError as error:
                raise _wrong(name, word, str(error)) from None
        return words

    def _read(self, name: str, parse: Callable[[str], T], default: T) -> T:
        value = self.text(name)
        try:
            return parse(value) if value else default
        except ValueError as error:
            # `from None`: the cause could repeat the address, which may hold a password.
            raise _wrong(name, None, str(error)) from None

    def _parse(self, name: str, type_: Any, default: T, accepted: str) -> T:
        value = self.text(name)
        try:
            return TypeAdapter(type_).validate_python(value) if value else default
        except ValidationError:
            raise _wrong(name, value, accepted) from None


def _limited(name: str, value: _Number, at_most: float | None) -> _Number:
    if at_most is not None and value > at_most:
        raise _wrong(name, str(value), f"at most {at_most:,}")
    return value


def _wrong(name: str, value: str | None, accepted: str) -> ImproperlyConfigured:
    shown = "" if value is None else f"={value[:100]!r}"
    return ImproperlyConfigured(f"{name}{shown} is not understood. Accepted: {accepted}.")
