"""A well-behaved client: it uses idempotency keys, and asks another server if one fails."""

from __future__ import annotations

import itertools
import time
import uuid
from typing import Any

import httpx

from .cluster import Web

__all__ = ["Client"]

RETRY_SECONDS = 30


class Client:
    """Starts and stops runs; when a web process does not answer, it asks the next one."""

    def __init__(self, webs: list[Web]) -> None:
        self.webs = webs  # tests change it while the client is in use
        self.started: dict[str, str] = {}  # run -> agent
        self.asked: set[str] = set()
        self.accepted: set[str] = set()
        self.problems: list[str] = []
        self._next = itertools.count()

    def start(self, agent: str, input: dict[str, Any]) -> str | None:
        answer = self._post(
            "/runs",
            json={"agent": agent, "input": input},
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )
        if answer is None or answer.status_code not in (200, 201):
            self.problems.append(f"no run of {agent}: {answer and answer.text}")
            return None
        id = str(answer.json()["id"])
        self.started[id] = agent
        return id

    def stop(self, id: str, **how: Any) -> None:
        self.asked.add(id)  # noted before the request, because the answer may be lost
        answer = self._post(f"/runs/{id}/stop", json={"reason": "enough", **how})
        if answer is None or answer.status_code not in (202, 409):
            self.problems.append(f"no stop of {id}: {answer and answer.text}")
        elif answer.status_code == 202:
            self.accepted.add(id)

    def _post(self, path: str, **arguments: Any) -> httpx.Response | None:
        end = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < end:
            webs = list(self.webs)
            web = webs[next(self._next) % len(webs)]
            try:
                answer = web.client.post(path, **arguments)
            except (
                httpx.TransportError,
                RuntimeError,
            ):  # the process has ended, and its client is closed
                continue
            if answer.status_code < 500:
                return answer
        return None
