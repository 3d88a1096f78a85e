"""A socket whose user loses the right to it is closed; an outage closes none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import OperationalError

from runs.db import transactions
from runs.identity import tokens
from runs.identity.models import ApiToken
from runs.models import RunInput, RunRecord
from runs.web.feed import get_hub, reading, rights
from runs.web.feed import hub as hub_module
from tests.support.feeds import in_database
from tests.support.handshakes import OURS, WAIT_SECONDS, opened, sign_in


def _forget(alice: User, run: RunRecord, what: str) -> None:
    match what:
        case "session":
            Session.objects.all().delete()
        case "password":
            alice.set_password("another")
            alice.save()
        case "token":
            ApiToken.objects.all().delete()
        case "active":
            User.objects.filter(pk=alice.pk).update(is_active=False)
        case "user":
            RunInput.objects.all().delete()
            RunRecord.objects.all().delete()
            alice.delete()
        case "run":
            RunInput.objects.filter(pk=run.pk).delete()
            run.delete()


class TestLostRight:
    @pytest.mark.parametrize("path", ["/ws/runs", "/ws/runs/{}", "/ws/runs/{}?tree=1&view=page"])
    @pytest.mark.parametrize(
        ("what", "proof"),
        [
            ("session", "session"),
            ("password", "session"),
            ("active", "session"),
            ("active", "token"),
            ("password", "token"),
            ("token", "token"),
        ],
    )
    async def test_closes(
        self,
        alice: User,
        run: RunRecord,
        session: str,
        token: str,
        path: str,
        what: str,
        proof: str,
    ) -> None:
        how = {"session": session, "origin": OURS} if proof == "session" else {"token": token}
        async with opened(path.format(run.pk), **how) as socket:
            await socket.next()
            await in_database(_forget, alice, run, what)
            assert await socket.code() == 4403

    @pytest.mark.parametrize("path", ["/ws/runs", "/ws/runs/{}"])
    async def test_closes_when_a_permission_is_withdrawn(
        self, run: RunRecord, operator: User, path: str
    ) -> None:
        key = await in_database(lambda: tokens.create(operator)[0])
        async with opened(path.format(run.pk), token=key) as socket:
            assert (await socket.next())["run"]["id"] == str(run.pk)
            await in_database(operator.user_permissions.clear)
            assert await socket.code() == 4403

    @pytest.mark.parametrize("what", ["run", "user"])
    async def test_a_run_that_was_deleted_is_gone(
        self, alice: User, run: RunRecord, token: str, what: str
    ) -> None:
        async with opened(f"/ws/runs/{run.pk}", token=token) as socket:
            await socket.next()
            await in_database(_forget, alice, run, what)
            assert await socket.code() in ({4404} if what == "run" else {4404, 4403})

    async def test_a_database_that_is_away_throws_nobody_out(
        self, run: RunRecord, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = asyncio.Event()
        loop = asyncio.get_running_loop()
        looks = iter(range(5))

        def broken(viewers: Any) -> Any:
            if next(looks, None) is None:
                loop.call_soon_threadsafe(failures.set)
            raise OperationalError("away")

        monkeypatch.setattr(hub_module, "HEARTBEAT_SECONDS", 0.02)
        async with opened(f"/ws/runs/{run.pk}?view=page", token=token) as socket:
            await socket.next()
            find_lost = rights.find_lost
            monkeypatch.setattr(rights, "find_lost", broken)
            async with asyncio.timeout(WAIT_SECONDS):
                await failures.wait()
            assert (await socket.until("heartbeat")) == {"type": "heartbeat"}
            monkeypatch.setattr(rights, "find_lost", find_lost)
            await in_database(ApiToken.objects.all().delete)
            assert await socket.code() == 4403

    @pytest.mark.parametrize(
        ("path", "reads"), [("/ws/runs/{}", "read_input"), ("/ws/runs", "read_active")]
    )
    async def test_a_database_that_is_away_ends_no_feed(
        self, path: str, reads: str, run: RunRecord, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = 0
        read = getattr(reading, reads)

        def broken(*arguments: Any) -> Any:
            nonlocal failures
            if failures < 2:
                failures += 1
                raise OperationalError("away")
            return read(*arguments)

        monkeypatch.setattr(reading, reads, broken)
        monkeypatch.setattr(transactions, "RETRY_SECONDS", 0.001)
        async with opened(path.format(run.pk), token=token) as socket:
            assert (await socket.next())["run"]["id"] == str(run.pk)
        assert failures == 2

    async def test_a_database_that_is_away_has_one_line_in_the_log(
        self, run: RunRecord, caplog: pytest.LogCaptureFixture
    ) -> None:
        def away() -> None:
            raise OperationalError("away")

        hub = get_hub()
        for outage in (1, 2):
            answers = [hub.read(away) for _ in range(5)]
            assert all(await asyncio.gather(*answers, return_exceptions=True))
            lines = [line for line in caplog.records if "can't read" in line.getMessage()]
            assert len(lines) == outage
            await hub.read(RunRecord.objects.count)

    async def test_asking_changes_no_session(
        self, alice: User, run: RunRecord, settings: Any
    ) -> None:
        """Signed with a key that has been replaced: a request would rotate it, and tell."""
        session = await in_database(sign_in, alice)
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another one, as long as it should be to satisfy the checks"
        async with opened(f"/ws/runs/{run.pk}", session=session, origin=OURS) as socket:
            await socket.next()
        assert await in_database(lambda: Session.objects.get().pk) == session
