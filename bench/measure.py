"""Figures, their statistics, and how they are printed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Figure", "as_json", "distribution", "ratio", "single", "table"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report.

    Attributes:
        median, p95, p99: in ``unit``; a figure that is measured once has only a median.
        target: the goal, in ``unit``; with ``at_least``, more is better.
        note: what exactly was measured.
    """

    name: str
    unit: str
    median: float
    p95: float | None = None
    p99: float | None = None
    count: int = 1
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        return self.median >= self.target if self.at_least else self.median <= self.target


def distribution(
    name: str, unit: str, values: Sequence[float], *, target: float | None = None, note: str = ""
) -> Figure:
    """Summarise many measurements of the same thing; smaller is better."""
    ordered = sorted(values)
    return Figure(
        name,
        unit,
        _quantile(ordered, 0.5),
        _quantile(ordered, 0.95),
        _quantile(ordered, 0.99),
        len(ordered),
        target,
        note=note,
    )


def single(
    name: str,
    unit: str,
    value: float,
    *,
    count: int = 1,
    target: float | None = None,
    at_least: bool = False,
    note: str = "",
) -> Figure:
    """Make a figure that was measured once, over ``count`` items."""
    return Figure(name, unit, value, None, None, count, target, at_least, note)


def ratio(name: str, above: Figure, below: Figure) -> Figure:
    """Compare two medians of one run: the ratio holds on machines of any speed."""
    return Figure(name, "x", above.median / below.median, note=f"{above.name} / {below.name}")


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Return the nearest rank: always a measured value."""
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def as_json(figures: Sequence[Figure], about: dict[str, Any]) -> str:
    return json.dumps({"about": about, "figures": [asdict(figure) for figure in figures]}, indent=2)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a readable table."""
    head = ("what", "unit", "median", "p95", "p99", "n", "target", "")
    rows = [head]
    for figure in figures:
        sign = {None: "", True: "met", False: "MISSED"}[figure.is_met]
        bound = (
            ""
            if figure.target is None
            else f"{'>=' if figure.at_least else '<='} {_text(figure.target)}"
        )
        rows.append(
            (
                figure.name,
                figure.unit,
                _text(figure.median),
                _text(figure.p95),
                _text(figure.p99),
                str(figure.count),
                bound,
                sign,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, 1, 7) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _text(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
