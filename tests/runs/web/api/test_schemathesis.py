"""Schemathesis on the whole OpenAPI document: no server error, no answer that isn't described.

Against the ASGI application on a real uvicorn, in a thread of this process, so that it has the
tests' database. Nobody runs the runs. ``SCHEMA_EXAMPLES=500`` tries for longer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events

from agents import Tools, agent
from runs.identity import tokens

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES") or 8)  # of requests to each operation

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
]


def test_the_api_keeps_what_its_document_promises(address: str, alice: User, settings: Any) -> None:
    @agent("summarise")  # as in the document's examples
    async def summarise(tools: Tools, document: str, words: int = 200) -> str:
        return document

    key, _ = tokens.create(alice)
    for _ in range(30):  # it revokes those that a list names first: not its own
        tokens.create(alice)
    config = SchemathesisConfig.from_dict(
        {
            "headers": {"Authorization": f"Token {key}"},
            "seed": 1,
            "generation": {"max-examples": EXAMPLES, "deterministic": True},
            "phases": {"stateful": {"generation": {"max-examples": EXAMPLES // 4}}},
            # Whether there is an agent of that name, and an input that fits, no schema can say.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_url(f"{address}/api/schema", config=config)
    failures: list[str] = []
    statuses: Counter[tuple[str, int]] = Counter()
    for event in engine.from_schema(schema).execute():
        if isinstance(event, (events.NonFatalError, events.FatalError)):
            failures.append(f"{event}")
        elif isinstance(event, events.ScenarioFinished):
            statuses.update(_statuses(event.recorder))
            failures += _failures(event.recorder)
    assert not failures, "\n\n".join(dict.fromkeys(failures))
    # It did more than to be refused.
    met = {status for _, status in statuses}
    assert met >= {200, 201, 202, 400, 401, 404, 405, 409, 415}, statuses


def _statuses(recorder: Any) -> Iterator[tuple[str, int]]:
    for interaction in recorder.interactions.values():
        if interaction.response is not None:
            yield recorder.label, interaction.response.status_code


def _failures(recorder: Any) -> list[str]:
    found = []
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.status is engine.Status.FAILURE:
                failure = check.failure_info.failure
                request = recorder.interactions[case_id].request
                response = recorder.interactions[case_id].response
                found.append(
                    f"{recorder.label}: {failure.title}: {failure.message}\n"
                    f"{request.method} {request.uri} {request.body!r:.500}\n"
                    f"{response.status_code} {response.content!r:.500}"
                )
    return found
