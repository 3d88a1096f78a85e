"""The door of the sockets: who is let in, and from where."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User

from runs.identity import tokens
from runs.models import RunRecord
from tests.support.feeds import in_database
from tests.support.handshakes import HOST, OURS, Socket, opened

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
