"""smolagents, which is made for threads: all of it is synchronous."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import openai
from smolagents import ChatMessageStreamDelta, LogLevel, OpenAIModel, ToolCallingAgent, tool

from agents import guarded_transport

from .tools import Hear, SyncLook

__all__ = ["open_model", "stream_in_thread", "turns_in_thread"]


@contextmanager
def open_model() -> Iterator[OpenAIModel]:
    transport = guarded_transport(httpx2.HTTPTransport())
    with openai.DefaultHttpxClient(transport=transport) as client:
        yield OpenAIModel("m", client_kwargs={"http_client": client}, retry=False)


def _agent(look: SyncLook, model: OpenAIModel, *, streams: bool) -> ToolCallingAgent:
    return ToolCallingAgent(
        [tool(look)], model, max_steps=20, stream_outputs=streams, verbosity_level=LogLevel.OFF
    )


def turns_in_thread(look: SyncLook) -> None:
    with open_model() as model:
        _agent(look, model, streams=False).run("Look at things.")


def stream_in_thread(look: SyncLook, hear: Hear) -> None:
    with open_model() as model:
        for step in _agent(look, model, streams=True).run("Look at things.", stream=True):
            if isinstance(step, ChatMessageStreamDelta):
                hear(step.content or "")
