"""Sockets of the live feed without a server: a handshake, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgiref.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.test import Client

from project.asgi import application

__all__ = ["HOST", "OURS", "WAIT_SECONDS", "Socket", "opened", "sign_in"]

WAIT_SECONDS = 15.0
HOST = "example.org"
OURS = f"http://{HOST}"


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


def sign_in(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value
