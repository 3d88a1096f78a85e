"""How many tokens a call used: what the endpoint reports, if it can be true, else an estimate.

Endpoints report usage once, in each chunk as a running total, in parts, or not at all; and some
report what no call can have used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["CHARACTERS_PER_TOKEN", "TokenUsage", "UsageReports", "tokens_of"]

CHARACTERS_PER_TOKEN: Final = 4
MOST_TOKENS: Final = 10**9  # of one call; a database adds up the calls of a run in 64 bits


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What one call used; ``estimated`` if the endpoint didn't say (4 characters a token)."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False


class UsageReports:
    """The reports of usage that came with one reply."""

    def __init__(self) -> None:
        self._input = _Count()
        self._output = _Count()
        self._is_contradictory = False

    def add(self, report: object) -> bool:
        """Add a report, of any form; return whether it has a count that can be true."""
        if not isinstance(report, Mapping):
            return False
        given = self._input.add(_first(report, "prompt_tokens", "input_tokens"))
        said = self._output.add(_first(report, "completion_tokens", "output_tokens"))
        total = report.get("total_tokens")
        if given is not None and said is not None:
            self._is_contradictory = type(total) is int and total < given + said
        return given is not None or said is not None

    def __bool__(self) -> bool:
        return self._input.is_known or self._output.is_known

    def settle(self, prompt_characters: int, said_characters: int) -> TokenUsage:
        """Return what to count, given how long the prompt and the reply were."""
        # Parts of a usage are reported one by one: each report speaks of its own chunk only.
        in_parts = self._input.has_fallen or self._output.has_fallen
        counts = [
            count.settle(characters, in_parts, self._is_contradictory)
            for count, characters in (
                (self._input, prompt_characters),
                (self._output, said_characters),
            )
        ]
        (given, is_given_sure), (said, is_said_sure) = counts
        return TokenUsage(given, said, not (is_given_sure and is_said_sure))


class _Count:
    """One of the counts: all its values so far."""

    def __init__(self) -> None:
        self.is_known = False
        self.has_fallen = False  # a running total never does
        self._last = self._highest = self._sum = self._positive_count = 0
        self._is_odd = False  # the last value can't be true

    def add(self, value: object) -> int | None:
        """Add a value; return it if it can be true. None is no value."""
        if value is None:
            return None
        self._is_odd = type(value) is not int or not 0 <= value <= MOST_TOKENS
        if self._is_odd:
            return None
        assert type(value) is int
        self.is_known = True
        self.has_fallen = self.has_fallen or value < self._last
        self._last = value
        self._highest = max(self._highest, value)
        self._sum = min(self._sum + value, MOST_TOKENS)
        self._positive_count += value > 0
        return value

    def settle(self, characters: int, in_parts: bool, is_contradictory: bool) -> tuple[int, bool]:
        """Return the count, and whether it is what the endpoint reported."""
        reported = self._sum if in_parts else self._highest
        is_missing = not self.is_known or self._is_odd or (reported == 0 and characters > 0)
        if is_missing or is_contradictory:
            return tokens_of(characters), False
        # Several parts, or a total that was counted twice: the sum is the better guess.
        return reported, not (in_parts and self._positive_count > 1)


def _first(report: Mapping[str, Any], *names: str) -> object:
    return next((report[name] for name in names if report.get(name) is not None), None)


def tokens_of(characters: int) -> int:
    """Estimate how many tokens a text of this length has."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
