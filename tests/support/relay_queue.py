"""A stand-in for the outbox: keeps the messages, and the work that is to be done later."""

from __future__ import annotations

from typing import Any

import pytest

from runs.delivery import relay

__all__ = ["RelayQueue"]


class RelayQueue:
    """Takes the place of the outbox; ``pass_time`` does what its thread would do."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.due: list[tuple[float, Any]] = []
        patch.setattr(relay, "outbox", self)
        patch.setattr(relay, "is_shared", lambda layer: True)

    def send(self, group: str, message: dict[str, Any], **options: Any) -> None:
        self.sent.append((group, message))

    def call_later(self, seconds: float, work: Any) -> None:
        if not any(other == work for _, other in self.due):
            self.due.append((seconds, work))

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for _, work in due:
            work()

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the messages since the last time, each with its group."""
        sent, self.sent = self.sent, []
        return sent
