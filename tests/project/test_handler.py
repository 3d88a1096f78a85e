"""How a request comes from the event loop to a view and back."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from asgiref.sync import SyncToAsync
from django.http import FileResponse, HttpRequest, HttpResponse
from django.urls import path

from project.handler import Handler

urlpatterns: list[Any] = []


def address(view: Any) -> Any:
    urlpatterns[:] = [path("here", view)]
    return view


async def ask(path: str = "/here") -> httpx.Response:
    transport = httpx.ASGITransport(Handler())  # type: ignore[arg-type]  # ASGI, in other words
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return await client.get(path)


async def test_a_request_goes_to_its_thread_once(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROOT_URLCONF = __name__
    trips: list[str] = []
    original = SyncToAsync.__call__

    async def counted(self: Any, *arguments: Any, **rest: Any) -> Any:
        trips.append(getattr(self.func, "__name__", ""))
        return await original(self, *arguments, **rest)

    monkeypatch.setattr(SyncToAsync, "__call__", counted)

    @address
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(threading.current_thread().name)

    response = await ask()
    assert response.status_code == 200
    assert response.text != threading.main_thread().name
    assert "Content-Security-Policy" in response.headers
    # The others are Django's signals before and after the request.
    assert trips == ["sync_send", "get_response", "close"]


async def test_a_file_of_a_view_is_read_in_threads(settings: Any, tmp_path: Any) -> None:
    settings.ROOT_URLCONF = __name__
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 1_000)
    read_by: set[threading.Thread] = set()

    class Noting:
        def __init__(self) -> None:
            self._file = file.open("rb")

        def read(self, size: int) -> bytes:
            read_by.add(threading.current_thread())
            return self._file.read(size)

        def close(self) -> None:
            self._file.close()

    @address
    def view(request: HttpRequest) -> FileResponse:
        return FileResponse(Noting())

    response = await ask()
    assert response.content == file.read_bytes()
    assert threading.current_thread() not in read_by


async def test_static_files_are_sent_whole() -> None:
    response = await ask("/static/admin/css/base.css")
    assert response.status_code == 200
    assert len(response.content) == int(response.headers["Content-Length"]) > 10_000
    assert "Content-Security-Policy" in response.headers
    assert (await ask("/static/nothing.css")).status_code == 404


async def test_what_a_view_raises_is_an_answer(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__

    @address
    def view(request: HttpRequest) -> HttpResponse:
        raise ValueError("a bug")

    assert (await ask()).status_code == 500
