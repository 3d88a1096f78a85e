"""Which requests wait for others: sign-ins and ordinary ones, and never a stop or a probe."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.db import DEFAULT_DB_ALIAS, connections
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path

from runs.asgi import kinds
from runs.asgi.application import Application
from runs.asgi.handler import Handler
from runs.db import lending
from runs.identity.admission import Admission
from runs.web.late import Answer, LateResponse

RUN = "01994d3c-7b1e-7a52-9c1f-3e1d9a4c8f20"
STOPS = [f"/runs/{RUN}/stop", f"/runs/{RUN}/stop/", f"/app/runs/{RUN}/stop"]
STOPS += [f"/admin/runs/runrecord/{RUN}/stop/"]
STOPS_OF_MANY = ["/runs/stop", "/runs/stop/", "/admin/runs/runrecord/stop/"]
DOORS = ["/api-token", "/api-token/", "/accounts/login/", "/admin/login/"]
DOORS += ["/accounts/password_change/", "/admin/password_change/", "/admin/auth/user/1/password/"]

gate = threading.Event()
arrived = threading.Semaphore(0)


def view(request: HttpRequest) -> HttpResponse:
    if "hold" in request.GET:
        arrived.release()
        assert gate.wait(10)
    return HttpResponse("ok")


_ours = [
    path("runs", view, name="api-runs"),
    *(re_path("", view, name=name) for name in ("page-home", "page-runs")),
]
_of_admin = [path("runs/runrecord/", view, name="runs_runrecord_changelist"), re_path("", view)]
urlpatterns = [
    path("admin/", include((_of_admin, "admin"))),
    path("", include((_ours, "halting"))),
]


@pytest.fixture(autouse=True)
def nothing_but_the_view(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    monkeypatch.setattr(kinds.ProbeRequest, "urlconf", __name__)
    gate.clear()
    yield
    gate.set()


def client_of(application: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application)
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", timeout=10)


async def _has_arrived() -> None:
    assert await asyncio.to_thread(arrived.acquire, timeout=10)


async def test_an_ordinary_request_waits_and_a_stop_and_a_probe_do_not() -> None:
    application = Application(None, serves_site=True)
    application._handler._others = Admission(1)
    async with client_of(application) as client:
        first = asyncio.create_task(client.get("/slow?hold"))
        await _has_arrived()
        second = asyncio.create_task(client.get("/next"))
        for address in STOPS + STOPS_OF_MANY:
            assert (await client.post(address)).status_code == 200
        assert (await client.get("/health/live")).status_code == 200
        assert not second.done()
        gate.set()
        assert (await first).status_code == (await second).status_code == 200


@pytest.mark.parametrize("door", DOORS)
async def test_a_sign_in_beyond_the_queue_is_429_later_and_takes_no_place(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runs.identity.admission.random.uniform", lambda *_: 0.2)
    application = Handler()
    application._passwords = Admission(1, most_of_one=0)
    async with client_of(application) as client:
        first = asyncio.create_task(client.post(f"{door}?hold"))
        await _has_arrived()
        application._passwords.place = None  # type: ignore[assignment]  # it needs none
        started = time.monotonic()
        refused = await client.post(door, headers={"accept": "application/json"})
        assert (refused.status_code, refused.json()["code"]) == (429, "throttled")
        assert refused.headers["Retry-After"] == "1"
        assert time.monotonic() - started >= 0.9
        assert (await client.get(door)).status_code == 200, "the page itself can be opened"
        assert (await client.post("/elsewhere")).status_code == 200
        gate.set()
        assert (await first).status_code == 200


@pytest.mark.parametrize(
    ("addresses", "reserve"),
    [(STOPS, lending.STOPS), (STOPS_OF_MANY, lending.STOPS_OF_MANY)],
    ids=["one", "many"],
)
async def test_stops_get_a_connection_of_their_own(
    addresses: list[str], reserve: lending.Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[str] = []
    monkeypatch.setattr(lending.Reserve, "lend", lambda self: lent.append(self.name))
    async with client_of(Handler()) as client:
        for address in addresses:
            await client.post(address)
        assert lent == [reserve.name] * len(addresses)
        for address in (*addresses, "/runs", f"/runs/{RUN}", "/app/runs/"):
            await client.get(address)
        for address in ("/runs", f"/runs/{RUN}", f"/runs/{RUN}/again", "/api-token"):
            await client.post(address)
    assert len(lent) == len(addresses)


@pytest.fixture
def reserve(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[lending.Reserve]:
    """The stops' only connection besides the ordinary ones."""
    made = lending.Reserve("reserve-of-late-answers", 1)
    made.open()
    made._wrapper().pool.wait(10)  # it connects in the background
    (pattern,) = (paths for reserve, paths in kinds._STOPS.items() if reserve is lending.STOPS)
    monkeypatch.setattr(kinds, "_STOPS", {made: pattern})
    yield made
    made.close()


@pytest.mark.postgres
async def test_a_stop_that_waits_holds_no_connection_of_the_reserve(
    reserve: lending.Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[str] = []
    is_over = asyncio.Event()
    waiting = asyncio.Semaphore(0)

    async def decide() -> Answer:
        waiting.release()
        await is_over.wait()
        return Answer(200, b"over")

    def stop(request: HttpRequest) -> HttpResponse:
        own = connections[DEFAULT_DB_ALIAS]
        own.ensure_connection()
        lent.append(own.alias)
        return LateResponse(decide, "text/plain")

    monkeypatch.setattr(Handler, "resolve_request", lambda *_: (stop, (), {}))
    pool = reserve._wrapper().pool
    async with client_of(Handler()) as client, asyncio.timeout(10):
        stops = [asyncio.create_task(client.post(STOPS[0])) for _ in range(3)]
        for _ in stops:
            await waiting.acquire()
        assert reserve.name in lent
        assert pool.get_stats()["pool_available"] == 1
        is_over.set()
        assert {answer.text for answer in await asyncio.gather(*stops)} == {"over"}
