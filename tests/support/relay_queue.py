"""A stand-in for the relay: keeps what is to be sent, and what is to be done later."""

from __future__ import annotations

from typing import Any

import pytest

from runs.delivery import relay

__all__ = ["RelayQueue"]


class RelayQueue:
    """Takes the place of the relay's thread: ``pass_time`` does what it would do."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.due: list[tuple[float, Any]] = []
        patch.setattr(relay, "send", lambda group, message, **_: self.sent.append((group, message)))
        patch.setattr(relay, "call_later", lambda seconds, work: self.due.append((seconds, work)))

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for _, work in due:
            work()

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the messages since the last time, each with its group."""
        sent, self.sent = self.sent, []
        return sent
