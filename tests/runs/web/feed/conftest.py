"""A hub whose reads happen on its own loop, when and in the order that the test wants."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator

import pytest
from django.contrib.auth.models import User
from django.db import connection

from runs.web.feed import Hub, close_hub, get_hub
from tests.support.feeds import Writer, at_once
from tests.support.running import *  # noqa: F403


@pytest.fixture
def reads_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with at_once(monkeypatch, random.Random(0)):
        yield


@pytest.fixture
def writer(alice: User, reads_at_once: None) -> Iterator[Writer]:
    """Does to runs of Alice's what workers do."""
    writer = Writer(alice)
    try:
        yield writer
    finally:
        writer.close()


@pytest.fixture
async def hub(reads_at_once: None) -> AsyncIterator[Hub]:
    """The hub of the test's loop, and a database connection for what the test does there.

    A coroutine's connection is its context's. Opened here it is the test's, and can be given back.
    """
    connection.ensure_connection()
    hub = get_hub()
    yield hub
    await close_hub()
    connection.close()
