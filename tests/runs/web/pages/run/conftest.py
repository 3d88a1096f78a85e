"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client

from agents import Tools, agent, registry


@pytest.fixture(autouse=True)
def agents_here(settings: Any) -> Iterator[None]:
    settings.RUNS = {**settings.RUNS, "API_THROTTLE_RATE": None}
    cache.clear()
    with registry.isolated(empty=True):

        @agent("echo", title="Say it again")
        async def echo(tools: Tools, text: str, times: int = 1) -> str:
            return text * times

        yield


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", password="pw")


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob", password="pw")


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client
