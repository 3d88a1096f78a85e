"""What agents.testing puts in place of the world: a scripted model, a data store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from agents import (
    Tools,
    agent,
    registry,
)
from agents.exceptions import LLMError
from agents.testing import MemoryDataStore, ScriptedModel, run


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    with registry.isolated(empty=True):
        yield


def ask(text: str = "Hello") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class TestScriptedModel:
    @pytest.fixture
    def talk(self) -> Any:
        @agent("talk")
        async def talk(tools: Tools, times: int = 1) -> list[str]:
            return [(await tools.call_llm(ask(f"No. {n}"))).text for n in range(times)]

        return talk

    def test_one_text_is_every_reply(self, talk: Any) -> None:
        assert run(talk, {"times": 2}, model=ScriptedModel("Yes.")).result == ["Yes.", "Yes."]

    def test_replies_come_in_their_order_and_may_run_out(self, talk: Any) -> None:
        assert run(talk, {"times": 2}, model=ScriptedModel(["a", "b"])).result == ["a", "b"]

        result = run(talk, {"times": 3}, model=ScriptedModel(["a", "b"]))

        assert result.error is not None
        assert result.error["message"] == "the script has no reply for call no. 3"

    def test_a_function_answers_what_was_asked(self, talk: Any) -> None:
        model = ScriptedModel(lambda messages: messages[0]["content"].upper())

        assert run(talk, {"times": 2}, model=model).result == ["NO. 0", "NO. 1"]

    def test_an_exception_is_raised(self, talk: Any) -> None:
        result = run(talk, model=ScriptedModel([LLMError("overloaded", status=503)]))

        assert result.error is not None
        assert result.error["code"] == "llm_error"

    def test_it_keeps_what_it_was_asked(self) -> None:
        @agent("picky")
        async def picky(tools: Tools) -> None:
            messages = ask("Hello")
            await tools.call_llm(messages, model="large", temperature=0)
            messages[0]["content"] = "changed afterwards"

        model = ScriptedModel()
        run(picky, model=model)

        [call] = model.calls
        assert call["messages"] == ask("Hello")
        assert (call["model"], call["temperature"]) == ("large", 0)

    def test_it_can_want_tools_called(self) -> None:
        @agent("caller")
        async def caller(tools: Tools) -> list[str]:
            reply = await tools.call_llm(ask(), tools=[{"type": "function"}])
            return [call["function"]["name"] for call in reply.tool_calls]

        request = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        model = ScriptedModel([{"tool_calls": [request]}])

        assert run(caller, model=model).result == ["look"]

    def test_without_one_the_stand_in_answers(self, talk: Any) -> None:
        result = run(talk)

        assert result.status == "success"
        assert [event.data["model"] for event in result.events if event.type == "llm_call"] == [
            "stand-in"
        ]


class TestWorld:
    def test_without_a_handler_there_is_no_network(self) -> None:
        @agent("curious")
        async def curious(tools: Tools) -> int:
            return (await tools.http.get("https://example.org/")).status_code

        refused = run(curious)
        answered = run(curious, http=lambda request: httpx.Response(204))

        assert refused.error is not None
        assert "no network in tests" in refused.error["message"]
        assert answered.result == 204

    async def test_the_data_store_keeps_to_its_protocol(self) -> None:
        store = MemoryDataStore({"a": {"k": [1]}})

        assert await store.set_many("b", {"x1": 1, "x2": 2, "y": 3}, None) == 3
        assert await store.get_many("b", ["y", "z"]) == {"y": 3}
        assert await store.list_keys("b", "x") == ["x1", "x2"]
        assert await store.delete_many("b", ["x1", "z", "x1"]) == 1
        assert await store.list_namespaces() == ["a", "b"]
        assert await store.clear("b") == 2
        assert await store.list_namespaces() == ["a"]
        got = await store.get_all("a")
        got["k"].append(2)
        assert await store.get_all("a") == {"k": [1]}
        assert await store.delete_many("a", ["k"]) == 1
        assert await store.list_namespaces() == []
