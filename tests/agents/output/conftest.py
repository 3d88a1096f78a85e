"""Fixtures of the tests in this folder."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def outside() -> dict[str, io.StringIO]:
    """Give the streams that are there before output is captured; see ``captured``."""
    return {"stdout": io.StringIO(), "stderr": io.StringIO()}


@pytest.fixture
def root_at_info() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)
