"""`manage.py stop_run`."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.utils import timezone

from agents import Tools, agent
from runs.actions import starting
from runs.management.commands import stop_run
from runs.models import RunRecord, WorkerRecord
from tests.support.consistency import assert_consistent
from tests.support.llm_server import LLMServer
from tests.support.server import eventually


class Ran:
    """How the command has ended."""

    def __init__(self, *arguments: object, **options: Any) -> None:
        out = io.StringIO()
        self.code = 0
        self.refusal = ""
        try:
            call_command("stop_run", *map(str, arguments), stdout=out, **options)
        except CommandError as error:
            self.code, self.refusal = error.returncode, str(error)
        self.out = out.getvalue()


@pytest.fixture
def queued(alice: User, options: Any) -> RunRecord:
    """Return a run of Alice's that no worker takes."""

    @agent("waits")
    async def waits(tools: Tools) -> None: ...

    return starting.start_run("waits", {}, owner=alice)[0]


def test_a_queued_run_is_stopped_at_once_and_nobody_is_named(queued: RunRecord) -> None:
    ran = Ran(queued.pk, "--reason", "wrong document")
    assert ran.code == 0
    assert "Stopped from the command line at " in ran.out
    assert "(reason: wrong document)." in ran.out
    assert "It had not started." in ran.out
    run = assert_consistent(queued)
    assert (run.status, run.stop_via, run.stop_requested_by) == ("stopped", "cli", None)


def test_a_run_that_is_over_exits_with_1_and_shows_its_receipt(queued: RunRecord) -> None:
    Ran(queued.pk)
    again = Ran(queued.pk)
    assert again.code == 1
    assert again.refusal == "The run was already over: Stopped."
    assert "Stopped from the command line" in again.out


@pytest.mark.parametrize("id", ["x", "", "12345", str(uuid.uuid4())])
def test_what_does_not_exist_exits_with_2(id: str, queued: RunRecord) -> None:
    ran = Ran(id)
    assert ran.code == 2
    assert ran.refusal == f"There is no run {id}."


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "gently"}, "gently"),
        ({"reason": "x" * 501}, "at most 500 characters"),
        ({"user": "nobody"}, 'There is no user "nobody".'),
    ],
)
def test_what_can_not_be_asked_exits_with_2(
    options: dict[str, str], words: str, queued: RunRecord
) -> None:
    ran = Ran(queued.pk, **options)
    assert ran.code == 2
    assert words in ran.refusal
    queued.refresh_from_db()
    assert not queued.stop_requested


def test_with_user_that_user_is_asked_for(queued: RunRecord, alice: User, bob: User) -> None:
    hidden = Ran(queued.pk, user="bob")
    assert (hidden.code, hidden.refusal) == (2, f"There is no run {queued.pk}.")

    bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
    refused = Ran(queued.pk, user="bob")
    assert (refused.code, refused.refusal) == (1, "You may see this run, but not stop it.")

    assert Ran(queued.pk, user="alice").code == 0
    assert assert_consistent(queued).stop_requested_by == alice


def test_an_inactive_user_may_nothing(queued: RunRecord, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert Ran(queued.pk, user="alice").code == 2


def test_wait_shows_what_it_waits_for_and_then_the_receipt(
    llm_server: LLMServer, hire: Callable[..., Any], start: Callable[..., RunRecord]
) -> None:
    @agent("asks")
    async def asks(tools: Tools) -> str:
        await tools.call_llm([{"role": "user", "content": "?"}])
        await tools.data_store.set("a", 1)
        return "never"

    hire()
    llm_server.hold()
    run = start("asks")
    llm_server.wait_for_requests(1)
    first = Ran(run.pk, wait=0)
    assert first.code == 0
    assert "It has not ended within" in first.out
    eventually(lambda: RunRecord.objects.get(pk=run.pk).stop_acknowledged_at, "it is heard")
    again = Ran(run.pk)
    assert again.code == 0
    assert "It was asked to stop before; the first request counts." in again.out
    assert "Stopping... (after current LLM call completes)" in again.out
    llm_server.release()
    # It may be over by now, and then there is nothing to wait for; the receipt is the same.
    last = Ran(run.pk, wait=20)
    assert last.code in (0, 1)
    assert "after the LLM call in flight had completed." in last.out
    assert assert_consistent(run).status == "stopped"


def test_a_worker_that_does_not_answer_is_named(queued: RunRecord) -> None:
    now = timezone.now()
    worker = WorkerRecord.objects.create(
        name="gone",
        host_identity="elsewhere",
        pid=1,
        pid_started=1,
        capacity=1,
        heartbeat_at=now - timedelta(seconds=10),
        lease_until=now + timedelta(seconds=5, milliseconds=900),
    )
    RunRecord.objects.filter(pk=queued.pk).update(
        status="running", worker=worker, attempt=1, started_at=now
    )
    ran = Ran(queued.pk)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "Stopping... (waiting for a worker)",
        "The worker does not answer; its lease ends in 5 s.",
    ]


def test_a_run_that_ends_between_the_first_look_and_the_wait_gets_its_receipt(
    llm_server: LLMServer,
    hire: Callable[..., Any],
    start: Callable[..., RunRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @agent("asks")
    async def asks(tools: Tools) -> str:
        await tools.call_llm([{"role": "user", "content": "?"}])
        await tools.data_store.set("a", 1)
        return "never"

    hire()
    llm_server.hold()
    run = start("asks")
    llm_server.wait_for_requests(1)
    wait = stop_run.Command._wait

    def wait_later(command: stop_run.Command, record: RunRecord, seconds: float) -> None:
        llm_server.release()
        eventually(lambda: RunRecord.objects.get(pk=run.pk).is_terminal)
        wait(command, record, seconds)

    monkeypatch.setattr(stop_run.Command, "_wait", wait_later)
    ran = Ran(run.pk, wait=20)
    assert ran.code == 0
    assert "after the LLM call in flight had completed." in ran.out
