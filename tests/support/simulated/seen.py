"""Counts what the simulation has reached, to check that it was everything."""

from __future__ import annotations

from collections import Counter

__all__ = ["SEEN"]

SEEN: Counter[str] = Counter()
