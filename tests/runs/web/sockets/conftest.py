"""What the tests of sockets share: a quick hub, a run, a token and a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from runs.identity import tokens
from runs.models import RunInput, RunRecord
from runs.web.feed import close_hub
from runs.web.feed import hub as hub_module
from tests.support.handshakes import HOST, sign_in
from tests.support.rows import make_run


@pytest.fixture(autouse=True)
def quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ALLOWED_HOSTS = [HOST]
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(hub_module, "LIST_POLL_SECONDS", 0.02)
    monkeypatch.setattr(hub_module, "RIGHTS_SECONDS", 0.02)


@pytest.fixture(autouse=True)
async def hub_is_closed() -> AsyncIterator[None]:
    yield
    await close_hub()


@pytest.fixture
def run(alice: User) -> RunRecord:
    return make_run(alice)


@pytest.fixture
def large_runs(alice: User) -> list[RunRecord]:
    runs = [make_run(alice) for _ in range(2)]
    RunInput.objects.filter(run__in=runs).update(value={"text": "x" * 200_000})
    return runs


@pytest.fixture
def token(alice: User) -> str:
    return tokens.create(alice)[0]


@pytest.fixture
def session(alice: User) -> str:
    return sign_in(alice)
