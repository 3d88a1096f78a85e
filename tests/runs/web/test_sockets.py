"""The door of the sockets: who is let in, from where, and who has to leave."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.test import Client

from project.asgi import application
from runs import consumers
from runs.actions.stopping import request_stop
from runs.db import transactions
from runs.identity import tokens
from runs.identity.models import ApiToken
from runs.models import RunInput, RunRecord, StopVia
from runs.web.feed import close_hub, get_hub, limits, reading, rights
from runs.web.feed import hub as hub_module
from tests.support.feeds import in_database
from tests.support.rows import make_run

WAIT_SECONDS = 15.0
HOST = "example.org"
OURS = f"http://{HOST}"


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
    return _sign_in(alice)


class Socket(ApplicationCommunicator):
    """A handshake, and what comes of it."""

    def __init__(
        self,
        path: str,
        *,
        token: str = "",
        session: str = "",
        origin: str = "",
        host: str = HOST,
        scheme: str = "ws",
        can_answer: bool = True,
    ) -> None:
        path, _, query = path.partition("?")
        given = {
            "host": host,
            "origin": origin,
            "authorization": f"Token {token}" if token else "",
            "cookie": f"sessionid={session}" if session else "",
        }
        scope = {
            "type": "websocket",
            "scheme": scheme,
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in given.items() if v],
            "extensions": {"websocket.http.response": {}} if can_answer else {},
        }
        super().__init__(application, scope)

    async def open(self) -> dict[str, Any]:
        """Shake hands; return how that was answered."""
        await self.send_input({"type": "websocket.connect"})
        answer: dict[str, Any] = await self.receive_output(WAIT_SECONDS)
        if answer["type"] == "websocket.http.response.start":
            body = (await self.receive_output(WAIT_SECONDS))["body"]
            await self.wait(WAIT_SECONDS)
            return {"status": answer["status"], **json.loads(body)}
        if answer["type"] == "websocket.close":
            await self.wait(WAIT_SECONDS)
        return answer

    async def next(self) -> dict[str, Any]:
        """Return the next message, or {"code": ...} when it is closed."""
        answer = await self.receive_output(WAIT_SECONDS)
        if answer["type"] == "websocket.close":
            return {"type": "closed", "code": answer["code"], "reason": answer.get("reason", "")}
        assert answer["type"] == "websocket.send"
        message: dict[str, Any] = json.loads(answer["text"])
        return message

    async def until(self, type: str) -> dict[str, Any]:
        while (message := await self.next())["type"] != type:
            assert message["type"] != "closed", message
        return message

    async def code(self) -> int:
        """Wait until it is closed; return the code."""
        while (message := await self.next())["type"] != "closed":
            pass
        return int(message["code"])

    async def leave(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.wait(WAIT_SECONDS)


@asynccontextmanager
async def opened(path: str, **how: Any) -> AsyncIterator[Socket]:
    socket = Socket(path, **how)
    answer = await socket.open()
    assert answer["type"] == "websocket.accept", answer
    try:
        yield socket
    finally:
        await socket.leave()


REFUSED = {
    "status": 403,
    "code": "permission_denied",
    "detail": "There is nothing here that you may see.",
}


class TestHandshake:
    async def test_with_a_token_needs_no_origin(self, run: RunRecord, token: str) -> None:
        async with opened(f"/ws/runs/{run.pk}", token=token) as socket:
            first = await socket.next()
            assert (first["type"], first["run"]["id"]) == ("run", str(run.pk))
            assert first["run"]["input"] == {}
        async with opened(f"/ws/runs/{run.pk}/", token=token, origin=OURS):
            pass

    async def test_with_a_session_needs_our_origin(self, run: RunRecord, session: str) -> None:
        async with opened(f"/ws/runs/{run.pk}", session=session, origin=OURS) as socket:
            assert (await socket.next())["type"] == "run"
        refused = await Socket(f"/ws/runs/{run.pk}", session=session).open()
        assert refused["status"] == 403

    @pytest.mark.parametrize(
        "origin",
        [
            "http://elsewhere.example.net",
            f"http://{HOST}:8001",
            f"http://{HOST}.example.net",
            f"http://not{HOST}",
            f"ftp://{HOST}",
            "null",
            "http://",
            f"http://{HOST}:what",
        ],
    )
    async def test_from_elsewhere_is_refused(
        self, run: RunRecord, session: str, token: str, origin: str
    ) -> None:
        for proof in ({"session": session}, {"token": token}):
            for path in (f"/ws/runs/{run.pk}", "/ws/runs"):
                answer = await Socket(path, origin=origin, **proof).open()
                assert (answer["status"], answer["code"]) == (403, "permission_denied")

    @pytest.mark.parametrize(
        ("host", "scheme", "origin"),
        [
            (f"{HOST}:8000", "ws", f"http://{HOST}:8000"),
            (f"{HOST}:80", "ws", OURS),
            (HOST, "wss", f"https://{HOST}"),
            (f"{HOST}:443", "wss", f"https://{HOST}"),
            (HOST, "wss", f"https://{HOST}:443"),
            (f"{HOST}:8443", "wss", f"https://{HOST}:8443"),
            (HOST.upper(), "ws", OURS),
        ],
    )
    async def test_from_our_own_page_is_let_in(
        self, run: RunRecord, session: str, host: str, scheme: str, origin: str
    ) -> None:
        path = f"/ws/runs/{run.pk}"
        async with opened(path, session=session, host=host, scheme=scheme, origin=origin):
            pass

    @pytest.mark.parametrize(
        ("host", "scheme", "origin"),
        [
            (HOST, "wss", OURS),
            (HOST, "ws", f"https://{HOST}"),
            (f"{HOST}:443", "ws", f"https://{HOST}"),
            (f"{HOST}:8000", "ws", OURS),
            (HOST, "wss", f"https://{HOST}:8443"),
            (HOST, "wss", f"wss://{HOST}"),
            (HOST, "wss", f"https://sub.{HOST}"),
            (HOST, "wss", "null"),
            (HOST, "wss", f"https://{HOST}:x"),
            (HOST, "wss", HOST),
            (HOST, "wss", f"//{HOST}"),
        ],
    )
    async def test_from_another_scheme_host_or_port_is_refused(
        self, run: RunRecord, session: str, token: str, host: str, scheme: str, origin: str
    ) -> None:
        for proof in ({"session": session}, {"token": token}):
            path = f"/ws/runs/{run.pk}"
            socket = Socket(path, host=host, scheme=scheme, origin=origin, **proof)
            assert (await socket.open())["status"] == 403

    async def test_a_host_that_is_not_ours_is_none(self, run: RunRecord, session: str) -> None:
        """An attacker's name that resolves to us: its pages have it as Origin and as Host."""
        rebound = Socket(
            f"/ws/runs/{run.pk}", session=session, host="evil.net", origin="http://evil.net"
        )
        assert (await rebound.open())["status"] == 403

    async def test_from_a_trusted_origin_is_let_in(
        self, settings: Any, run: RunRecord, session: str
    ) -> None:
        settings.CSRF_TRUSTED_ORIGINS = ["https://app.example.com", "https://*.example.net"]
        for origin in ("https://app.example.com", "https://deep.example.net"):
            async with opened(f"/ws/runs/{run.pk}", session=session, origin=origin):
                pass
        for origin in ("http://app.example.com", "https://example.com", "https://example.net.x"):
            answer = await Socket(f"/ws/runs/{run.pk}", session=session, origin=origin).open()
            assert answer["status"] == 403

    async def test_for_what_may_not_be_seen_is_refused_the_same(
        self, bob: User, run: RunRecord
    ) -> None:
        stranger = await in_database(lambda: tokens.create(bob)[0])
        answers = [
            await Socket(path, token=stranger).open()
            for path in (
                f"/ws/runs/{run.pk}",
                f"/ws/runs/{uuid.uuid4()}",
                "/ws/runs/not-an-id",
                "/ws/runs/%00",
            )
        ]
        assert all(answer["status"] == 403 for answer in answers)
        assert answers[0] == answers[1] == REFUSED
        assert {answer["code"] for answer in answers} == {"permission_denied"}
        assert len({answer["detail"] for answer in answers}) == 1

    @pytest.mark.parametrize("key", ["", "0" * 40, "a b", "é", "'; --"])
    async def test_of_nobody_is_refused(self, run: RunRecord, key: str) -> None:
        assert (await Socket(f"/ws/runs/{run.pk}", token=key).open())["status"] == 403
        answer = await Socket("/ws/runs", session=key, origin=OURS).open()
        assert answer["status"] == 403

    async def test_of_a_user_who_was_switched_off_is_refused(
        self, alice: User, run: RunRecord, token: str
    ) -> None:
        await in_database(lambda: User.objects.filter(pk=alice.pk).update(is_active=False))
        assert (await Socket(f"/ws/runs/{run.pk}", token=token).open())["status"] == 403

    async def test_of_an_operator_is_let_in(self, run: RunRecord, operator: User) -> None:
        key = await in_database(lambda: tokens.create(operator)[0])
        async with opened(f"/ws/runs/{run.pk}", token=key) as socket:
            assert (await socket.next())["run"]["owner"] == "alice"

    @pytest.mark.parametrize(
        "query",
        [
            *("after=x", "after=-1", "after=2147483648", "after=1&cursor=1", "cursor=%ff"),
            *("tree=2", "view=else", "unknown=1", "cursor=AQ!"),
        ],
    )
    async def test_with_bad_parameters_is_refused(
        self, run: RunRecord, token: str, query: str
    ) -> None:
        answer = await Socket(f"/ws/runs/{run.pk}?{query}", token=token).open()
        assert (answer["status"], answer["code"]) == (400, "invalid_filter")
        assert answer["detail"]
        bare = await Socket(f"/ws/runs/{run.pk}?{query}", token=token, can_answer=False).open()
        assert bare["type"] == "websocket.close"

    async def test_bad_parameters_tell_nothing_to_strangers(self, run: RunRecord) -> None:
        assert await Socket(f"/ws/runs/{run.pk}?after=x", token="0" * 40).open() == REFUSED


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
        session = await in_database(_sign_in, alice)
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another one, as long as it should be to satisfy the checks"
        async with opened(f"/ws/runs/{run.pk}", session=session, origin=OURS) as socket:
            await socket.next()
        assert await in_database(lambda: Session.objects.get().pk) == session


def _sign_in(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


class TestClosing:
    async def test_after_the_end_with_1000(self, run: RunRecord, token: str) -> None:
        async with opened(f"/ws/runs/{run.pk}", token=token) as socket:
            await socket.next()
            await in_database(lambda: request_stop(run.pk, via=StopVia.API, check_permission=False))
            types = [(await socket.next()) for _ in range(5)]
            assert [m["type"] for m in types] == ["trace", "trace", "run", "end", "closed"]
            assert types[3]["run"]["status"] == "stopped"
            assert types[4]["code"] == 1000

    async def test_when_the_process_goes_away_with_1012(self, run: RunRecord, token: str) -> None:
        async with (
            opened(f"/ws/runs/{run.pk}", token=token) as one,
            opened("/ws/runs", token=token) as many,
        ):
            await one.next()
            await many.next()
            await close_hub()
            assert await one.code() == 1012
            assert await many.code() == 1012
        assert (await Socket(f"/ws/runs/{run.pk}", token=token).open())["status"] == 403

    async def test_with_too_many_feeds_says_so(
        self, run: RunRecord, token: str, settings: Any
    ) -> None:
        settings.RUNS = {**settings.RUNS, "MAX_FEEDS_PER_OWNER": 1}
        async with opened("/ws/runs", token=token) as first:
            await first.next()
            async with opened(f"/ws/runs/{run.pk}", token=token) as second:
                closed = await second.next()
                assert closed["code"] == 4429
                assert closed["reason"] == "You have 1 feeds open in this process; 1 may be."
        async with opened(f"/ws/runs/{run.pk}", token=token) as third:
            assert (await third.next())["type"] == "run"

    async def test_a_reader_that_leaves_no_room_is_closed_and_continues(
        self, large_runs: list[RunRecord], token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two runs with large inputs, the budget has room for one."""
        monkeypatch.setattr(limits, "MOST_UNSENT_BYTES_OF_USER", 300_000)
        told: list[list[Any]] = [[], []]
        closed = asyncio.Event()

        def sender(number: int) -> Any:
            async def send(message: dict[str, Any]) -> None:
                told[number].append(message)
                if message["type"] == "websocket.send":
                    await asyncio.Event().wait()  # it does not read
                if message["type"] == "websocket.close":
                    closed.set()

            return send

        serving = []
        async with asyncio.timeout(WAIT_SECONDS):
            for number, run in enumerate(large_runs):
                queue: asyncio.Queue[Any] = asyncio.Queue()
                queue.put_nowait({"type": "websocket.connect"})
                scope = Socket(f"/ws/runs/{run.pk}", token=token).scope
                serving.append(asyncio.create_task(application(scope, queue.get, sender(number))))
                while not any(message["type"] == "websocket.send" for message in told[number]):
                    await asyncio.sleep(0.005)
            await closed.wait()
        assert told[0][-1]["code"] == 4408
        assert told[0][-1]["reason"] == "You left too much unread; continue where you were."
        assert told[1][-1]["type"] == "websocket.send"
        async with opened(f"/ws/runs/{large_runs[0].pk}", token=token) as again:
            assert (await again.next())["run"]["input"] == {"text": "x" * 200_000}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def test_a_reader_that_is_stuck_is_let_go(
        self, run: RunRecord, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumers, "STUCK_SECONDS", 0.05)
        told: list[Any] = []
        closed = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            told.append(message)
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()
            if message["type"] == "websocket.close":
                closed.set()

        queue: asyncio.Queue[Any] = asyncio.Queue()
        queue.put_nowait({"type": "websocket.connect"})
        scope = Socket(f"/ws/runs/{run.pk}", token=token).scope
        serving = asyncio.create_task(application(scope, queue.get, send))
        async with asyncio.timeout(WAIT_SECONDS):
            await closed.wait()
            assert not get_hub().readers
            queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            await serving
        assert [message["type"] for message in told][-1] == "websocket.close"
        assert told[-1]["code"] == 1011

    async def test_leaves_nothing_behind(self, run: RunRecord, token: str) -> None:
        async with opened("/ws/runs", token=token) as socket:
            await socket.next()
            before = asyncio.all_tasks()
            watchers = set(get_hub().readers)
            for moment in range(12):
                other = Socket(f"/ws/runs/{run.pk}?tree=1", token=token)
                await other.send_input({"type": "websocket.connect"})
                for _ in range(moment * 3):
                    await asyncio.sleep(0)
                await other.leave()
            async with asyncio.timeout(WAIT_SECONDS):
                while asyncio.all_tasks() - before:
                    await asyncio.sleep(0.01)
            assert get_hub().readers == watchers
            assert not get_hub().refresher.trees


class TestList:
    async def test_tells_of_my_runs_as_they_come_and_go(
        self, alice: User, bob: User, run: RunRecord, token: str
    ) -> None:
        await in_database(make_run, bob)
        async with opened("/ws/runs?view=page", token=token) as socket:
            first = await _listed(socket)
            assert (first["id"], first["status"]) == (str(run.pk), "queued")
            new = await in_database(make_run, alice)
            assert (await _listed(socket))["id"] == str(new.pk)
            await in_database(make_run, bob)
            await in_database(lambda: request_stop(new.pk, via=StopVia.API, check_permission=False))
            last = await _listed(socket)
            assert (last["id"], last["status"]) == (str(new.pk), "stopped")

    async def test_of_an_operator_tells_of_all(
        self, run: RunRecord, bob: User, operator: User
    ) -> None:
        other = await in_database(make_run, bob)
        key = await in_database(lambda: tokens.create(operator)[0])
        async with opened("/ws/runs", token=key) as socket:
            seen = {(await socket.next())["run"]["id"] for _ in range(2)}
            assert seen == {str(run.pk), str(other.pk)}

    async def test_beats_its_heart(
        self, run: RunRecord, token: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runs.web.feed.hub.HEARTBEAT_SECONDS", 0.02)
        async with opened("/ws/runs?view=page", token=token) as socket:
            for _ in range(2):
                await socket.until("heartbeat")

    async def test_knows_no_cursor(self, token: str) -> None:
        assert (await Socket("/ws/runs?after=1", token=token).open())["status"] == 400


async def _listed(socket: Socket) -> dict[str, Any]:
    """Return the run that the next batch tells of; it has words, and no input."""
    message = await socket.until("frames")
    (frame,) = message["frames"]
    assert frame["words"]["status"]["label"]
    assert "input" not in frame["run"]
    run: dict[str, Any] = frame["run"]
    return run
