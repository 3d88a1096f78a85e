"""Helpers of the tests in tests/runs/web/pages/run."""

from __future__ import annotations

import json
import re
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from runs.models import RunEvent, RunInput, RunRecord
from tests.support.rows import make_run

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


PARTS = ("", "state", "result", "input", "receipt", "download/result", "download/input")


def client_of(user: User, *permissions: str) -> Client:
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def asked(owner: User, input: Any, **fields: Any) -> RunRecord:
    run = make_run(owner, agent="echo", **fields)
    RunInput.objects.filter(run=run).update(value=input)
    return run


def add_event(run: RunRecord, type: str, /, **data: Any) -> RunEvent:
    seq = run.events.count() + 1
    return RunEvent.objects.create(
        run=run, seq=seq, ts=timezone.now(), type=type, agent=run.agent, depth=0, data=data
    )


def page_of(client: Client, run: RunRecord, part: str = "") -> str:
    response = client.get(f"/app/runs/{run.pk}/{part}")
    assert response.status_code == 200, response
    return response.content.decode()


def data_of(page: str) -> dict[str, Any]:
    """Read what the page hands to its script."""
    (found,) = re.findall(
        r'<script id="run-data" type="application/json">(.*?)</script>', page, re.DOTALL
    )
    data: dict[str, Any] = json.loads(found)
    return data


def element(page: str, id: str) -> str:
    """Return the start tag of an element, and the text in it."""
    found = re.search(rf'<\w+[^>]* id="{id}"[^>]*>.*?</(?:p|button)>', page, re.DOTALL)
    assert found, id
    return " ".join(re.sub(r"(?<!^)<[^>]+>", " ", found[0]).split())
