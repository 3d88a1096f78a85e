"""A stop that waits: on a real server it takes no thread; quotas; rights that end meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from runs.delivery import ends
from runs.models import RunRecord
from runs.web import feed
from runs.web.api import waiting
from runs.web.feed import Place, hub
from tests.support.feeds import parse_server_sent

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_SECONDS = 20.0

Ask = Callable[..., "Future[httpx.Response]"]


@pytest.fixture
def ask(address: str, alice: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Ask the server in a thread, as alice."""
    monkeypatch.setattr(hub, "RIGHTS_SECONDS", 0.05)
    key = Token.objects.create(user=alice).key
    pool = ThreadPoolExecutor(8)
    clients: list[httpx.Client] = []

    def request(run: RunRecord, wait: float = 20, **options: Any) -> Future[httpx.Response]:
        client = httpx.Client(base_url=address, timeout=WAIT_SECONDS)
        clients.append(client)
        options.setdefault("headers", {"Authorization": f"Token {key}"})
        return pool.submit(client.post, f"/runs/{run.pk}/stop?wait={wait}", **options)

    yield request
    for client in clients:
        client.close()
    pool.shutdown()


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _request_threads() -> list[str]:
    """Return the threads that Django has made for requests."""
    return [one.name for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]


class TestOnAServer:
    def test_it_waits_without_a_thread_and_answers_at_the_end(self, ask: Ask, runs: Any) -> None:
        run = runs.running()
        before = set(_request_threads())  # of earlier tests
        answers = [ask(run) for _ in range(4)]
        _until(lambda: feed.waiting_count() == 4)
        ours = 4  # threads of this test's clients
        _until(lambda: len(set(_request_threads()) - before) == ours)
        runs.end(run, "stopped", partial_result="half")
        for answer in answers:
            found = answer.result(WAIT_SECONDS)
            assert (found.status_code, found.json()["status"]) == (200, "stopped")
            assert found.json()["partial_result"] == "half"
            assert found.headers["cache-control"] == "no-store"
            assert "content-security-policy" in found.headers
            assert int(found.headers["content-length"]) == len(found.content)
        assert feed.waiting_count() == 0

    def test_202_when_it_is_not_over_in_time(self, ask: Ask, runs: Any) -> None:
        found = ask(runs.running(), 0.05).result(WAIT_SECONDS)
        assert (found.status_code, found.json()["status"]) == (202, "stopping")

    def test_200_when_it_is_over_before(self, ask: Ask, runs: Any) -> None:
        found = ask(runs.queued()).result(WAIT_SECONDS)
        assert (found.status_code, found.json()["status"]) == (200, "stopped")

    def test_a_right_that_ends_ends_the_wait(self, ask: Ask, runs: Any) -> None:
        answer = ask(runs.running())
        _until(lambda: feed.waiting_count() == 1)
        Token.objects.all().delete()
        found = answer.result(5)
        assert (found.status_code, found.json()["code"]) == (401, "not_authenticated")
        assert found.headers["www-authenticate"] == "Token"

    def test_a_run_that_may_not_be_seen_any_longer_is_404(
        self, ask: Ask, runs: Any, bob: User
    ) -> None:
        run = runs.running()
        answer = ask(run)
        _until(lambda: feed.waiting_count() == 1)
        RunRecord.objects.filter(pk=run.pk).update(owner=bob)
        found = answer.result(5)
        assert (found.status_code, found.json()["code"]) == (404, "not_found")

    def test_a_session_waits_too(self, ask: Ask, runs: Any, alice: User, address: str) -> None:
        browser = Client()
        browser.force_login(alice)
        cookies = {
            "sessionid": browser.cookies["sessionid"].value,
            "csrftoken": "a" * 32,
        }
        run = runs.running()
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())}
        refused = ask(run, headers=headers).result(WAIT_SECONDS)
        assert refused.json()["code"] == "csrf_failed"
        answer = ask(run, headers={**headers, "X-CSRFToken": "a" * 32})
        _until(lambda: feed.waiting_count() == 1)
        browser.logout()
        assert answer.result(5).status_code == 401

    def test_a_database_that_is_away_is_503(
        self, ask: Ask, runs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = runs.running()
        answer = ask(run)
        _until(lambda: feed.waiting_count() == 1)

        def fail(id: Any) -> Any:
            raise OperationalError("the connection is closed")

        monkeypatch.setattr(waiting, "get_for_wire", fail)
        runs.end(run, "stopped")
        found = answer.result(WAIT_SECONDS)
        assert (found.status_code, found.json()["code"]) == (503, "unavailable")
        assert found.headers["retry-after"] == "1"

    def test_a_bug_is_500_in_the_shape_of_all_errors(
        self, ask: Ask, runs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(id: Any) -> Any:
            raise KeyError("a bug")

        monkeypatch.setattr(waiting, "get_for_wire", fail)
        found = ask(runs.running(), 0.05).result(WAIT_SECONDS)
        assert (found.status_code, found.json()["code"]) == (500, "server_error")

    def test_a_process_that_drains_answers_at_once(self, ask: Ask, runs: Any) -> None:
        run = runs.running()
        ends.let_go()
        found = ask(run).result(WAIT_SECONDS)
        assert (found.status_code, found.json()["status"]) == (202, "stopping")


class TestQuotas:
    @pytest.fixture(autouse=True)
    def one_each(self, options: Any) -> None:
        options(MAX_FEEDS_PER_OWNER=1, MAX_WAITERS_PER_OWNER=1)

    def test_a_stop_without_a_place_stops_at_once(self, ask: Ask, runs: Any) -> None:
        first, second = runs.running(), runs.running()
        answer = ask(first)
        _until(lambda: feed.waiting_count() == 1)
        found = ask(second).result(5)
        assert (found.status_code, found.json()["status"]) == (202, "stopping")
        assert found.headers["wait-refused"].startswith("quota_waiters; You have 1 requests")
        runs.end(first, "stopped")
        assert answer.result(WAIT_SECONDS).status_code == 200
        # The place is free again.
        third = ask(second)
        _until(lambda: feed.waiting_count() == 1)
        runs.end(second, "stopped")
        assert third.result(WAIT_SECONDS).status_code == 200

    def test_a_stop_without_a_place_stops_without_a_server_too(
        self, api: APIClient, runs: Any, alice: User
    ) -> None:
        place = Place("waiters", alice.pk)
        began = time.monotonic()
        found = api.post(f"/runs/{runs.running().pk}/stop?wait=20")
        assert (found.status_code, found.json()["status"]) == (202, "stopping")
        assert "Wait-Refused" in found.headers
        assert time.monotonic() - began < 10
        place.leave()

    def test_a_stream_without_a_place_is_429(
        self, api: APIClient, runs: Any, alice: User, bob: User
    ) -> None:
        run = runs.end(runs.running())
        place = Place("feeds", alice.pk)
        path, accept = f"/runs/{run.pk}/events", {"accept": "text/event-stream"}
        found = api.get(path, headers=accept)
        assert found.status_code == 429
        assert found.json() == {
            "code": "quota_feeds",
            "detail": "You have 1 feeds open in this process; 1 may be.",
            "used": 1,
            "allowed": 1,
        }
        assert found.headers["Retry-After"] == "5"
        # Other answers need no place.
        assert api.get(path).status_code == 200
        place.leave()
        for _ in range(3):  # each gives its place back
            assert b"event: end" in b"".join(api.get(path, headers=accept))
        for _ in range(3):  # also those that are never read
            api.get(path, headers=accept).close()


class TestWithoutALoop:
    """Django's test client, and WSGI: the same answers, from the request's own thread."""

    def test_a_stream_is_read_as_it_comes(self, api: APIClient, runs: Any) -> None:
        run = runs.end(runs.tell(runs.running(text="x"), 3), result="done")
        answer = api.get(f"/runs/{run.pk}/events", headers={"accept": "text/event-stream"})
        assert answer.status_code == 200
        told = parse_server_sent(b"".join(answer).decode())
        assert [type for type, _, _ in told] == ["run", "trace", "trace", "trace", "trace", "end"]
        assert told[-1][2] == api.get(f"/runs/{run.pk}").json()
