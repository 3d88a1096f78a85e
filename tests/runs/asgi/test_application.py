"""Which application answers in a site that has addresses of its own."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path

from runs.asgi.application import Application


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse("halting")


_OURS = [path("runs", view, name="api-runs"), re_path("", view)]
_ADMIN = [path("runs/runrecord/", view, name="runs_runrecord_changelist"), re_path("", view)]
urlpatterns = [
    path("tools/halting/", include((_OURS, "halting"))),
    path("desk/", include((_ADMIN, "admin"))),
]


async def site(scope: Any, receive: Any, send: Any) -> None:
    """The site's own application."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"site"})


@pytest.fixture(autouse=True)
def addresses(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []


async def ask(path: str, **scope: Any) -> list[Any]:
    whole = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
        **scope,
    }
    socket = ApplicationCommunicator(Application(site, serves_site=False), whole)
    await socket.send_input({"type": "http.request"})
    start = await socket.receive_output(5)
    body = (await socket.receive_output(5))["body"]
    await socket.wait()
    return [start["status"], body]


@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("/tools/halting/runs", b"halting"),
        ("/tools/halting/runs/1/stop", b"halting"),
        ("/tools/halting/app/runs/", b"halting"),
        ("/desk/runs/runrecord/1/stop/", b"halting"),
        ("/runs", b"site"),
        ("/tools/halting/running", b"site"),
        ("/tools/halting/", b"site"),
        ("/desk/auth/user/", b"site"),
        ("/", b"site"),
    ],
)
async def test_each_address_has_one_that_answers(path: str, by: bytes) -> None:
    assert await ask(path) == [200, by]


async def test_probes_are_answered_under_the_prefix() -> None:
    assert await ask("/tools/halting/health/live") == [200, b'{"status": "alive"}']
    assert await ask("/health/live") == [200, b"site"]


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_server_may_mount_the_application(is_ours: bool) -> None:
    path = "/mounted/tools/halting/runs" if is_ours else "/mounted/runs"
    by = b"halting" if is_ours else b"site"
    assert await ask(path, root_path="/mounted") == [200, by]


async def test_a_proxy_may_keep_the_name_of_the_script(settings: Any) -> None:
    settings.FORCE_SCRIPT_NAME = "/mounted"
    assert await ask("/mounted/tools/halting/runs") == [200, b"halting"]
    assert await ask("/mounted/runs") == [200, b"site"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/ws/chat", "websocket.accept"), ("/tools/halting/ws/runs", "websocket.close")],
)
async def test_the_sites_sockets_are_its_own(path: str, expected: str) -> None:
    scope = {"type": "websocket", "path": path, "headers": [(b"host", b"testserver")]}
    socket = ApplicationCommunicator(Application(site, serves_site=False), scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output(5))["type"] == expected
    await socket.wait()
