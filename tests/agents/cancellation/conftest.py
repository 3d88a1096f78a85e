"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.cancellation import (
    CancelToken,
    bind_token,
)


@pytest.fixture
def token() -> Iterator[CancelToken]:
    """Be the token of the code under test: bound in the test's own context."""
    token = CancelToken()
    reset = bind_token(token)
    yield token
    reset.var.reset(reset)
