"""POST /runs and GET /agents."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from rest_framework.test import APIClient

from agents import Tools, agent
from runs.asgi.handler import Handler
from runs.models import RunRecord

pytestmark = pytest.mark.django_db


class TestAgents:
    @pytest.mark.parametrize("path", ["/agents", "/agents/"])
    def test_lists_names_titles_and_schemas(self, api: APIClient, path: str) -> None:
        response = api.get(path)
        assert response.status_code == 200
        found = {one["name"]: one for one in response.json()["results"]}
        assert list(found) == ["anything", "echo", "strict"]
        assert found["echo"]["title"] == "Echo"
        assert found["echo"]["description"] == "Says it again."
        assert found["strict"]["input_schema"]["required"] == ["document"]
        assert found["strict"]["output_schema"] == {"type": "string"}
        assert set(found["echo"]) == {
            "name", "title", "description", "input_schema", "output_schema",
        }  # fmt: skip


@pytest.mark.parametrize("path", ["/runs", "/runs/"])
def test_a_run_is_created_and_looks_as_the_contract_says(
    api: APIClient, alice: User, path: str
) -> None:
    response = api.post(path, {"agent": "echo", "input": {"text": "ho"}})
    assert response.status_code == 201
    run = response.json()
    assert uuid.UUID(run["id"]).version == 7
    assert response["Location"] == f"http://testserver/runs/{run['id']}"
    created_at = RunRecord.objects.get(pk=run["id"]).created_at
    assert run == {
        "id": run["id"],
        "agent": "echo",
        "input": {"text": "ho"},
        "status": "queued",
        "result": None,
        "partial_result": None,
        "error": None,
        "owner": "alice",
        "parent": None,
        "root": run["id"],
        "priority": 0,
        "attempt": 0,
        "created_at": created_at.isoformat(),
        "started_at": None,
        "finished_at": None,
        "in_flight": [],
        "usage": NOTHING_USED,
        "usage_tree": NOTHING_USED,
        "last_seq": 0,
        "log_removed_at": None,
        "worker": None,
        "unwatched": {"threads": 0, "processes": 0, "connections": 0},
        "limits": NO_LIMITS,
        "stop": None,
    }
    assert created_at.utcoffset() is not None
    assert api.get(f"/runs/{run['id']}").json() == run


NO_LIMITS = {
    "deadline_seconds": None,
    "idle_seconds": None,
    "call_seconds": None,
    "deadline_at": None,
}
NOTHING_USED = {"llm_calls": 0, "input_tokens": 0, "output_tokens": 0, "estimated": False}


def test_the_input_may_be_left_out(api: APIClient) -> None:
    response = api.post("/runs", {"agent": "echo"})
    assert response.status_code == 201
    assert response.json()["input"] == {}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"agent"}),
        ({"agent": "nobody"}, {"agent"}),
        ({"agent": ""}, {"agent"}),
        ({"agent": None}, {"agent"}),
        ({"agent": 5}, {"agent"}),
        ({"agent": ["echo"]}, {"agent"}),
        ({"agent": "ec\0ho"}, {"agent"}),
        ({"agent": "echo", "inputs": {}}, {"inputs"}),
        ({"agent": "echo", "owner": "bob", "status": "success"}, {"owner", "status"}),
        ({"agent": "echo", "priority": "1"}, {"priority"}),
        ({"agent": "echo", "priority": -1.5}, {"priority"}),
        ({"agent": "echo", "priority": False}, {"priority"}),
        ({"agent": "echo", "priority": None}, {"priority"}),
        ({"agent": "echo", "priority": 101}, {"priority"}),
        ({"agent": "echo", "priority": -101}, {"priority"}),
        ({"agent": "echo", "input": None}, {"input"}),
        ({"agent": "echo", "input": []}, {"input"}),
        ({"agent": "echo", "input": "text"}, {"input"}),
        ({"agent": "echo", "input": {"text": 5}}, {"input.text"}),
        ({"agent": "echo", "input": {"words": 5}}, {"input.words"}),
        ({"agent": "echo", "input": {"times": "5"}}, {"input.times"}),
        ({"agent": "echo", "input": {"times": True, "text": None}}, {"input.times", "input.text"}),
        ({"agent": "strict", "input": {"words": 1.5}}, {"input.document", "input.words"}),
        ({"agent": "strict", "input": {"document": "a\0b"}}, {"input.document"}),
        ({"agent": "anything", "input": {"value": {"a": ["\0"]}}}, {"input.value.a.0"}),
        ({"agent": "anything", "input": {"value": {"\0": 1}}}, {"input.value"}),
    ],
    ids=str,
)
def test_400_names_each_bad_field(api: APIClient, body: dict[str, Any], fields: set[str]) -> None:
    response = api.post("/runs", body)
    assert response.status_code == 400
    answer = response.json()
    assert answer["code"] == "invalid_input"
    assert answer["fields"].keys() == fields
    assert all(messages and all(messages) for messages in answer["fields"].values())
    assert answer["detail"]
    assert not RunRecord.objects.exists()


def test_an_unknown_agent_is_told_what_is_close(api: APIClient) -> None:
    answer = api.post("/runs", {"agent": "ekho"}).json()
    assert 'Did you mean "echo"?' in answer["fields"]["agent"][0]


@pytest.mark.parametrize(
    "value", ["1e999", '"\\ud800"', '{"\\udfff": 1}', "1" * 1001, "[" * 101 + "]" * 101]
)
def test_what_json_has_and_databases_have_not_names_its_field(api: APIClient, value: str) -> None:
    body = f'{{"agent": "anything", "input": {{"value": {value}}}}}'
    response = api.post("/runs", body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["code"] == "invalid_input"
    assert all(path.startswith("input.value") for path in response.json()["fields"])


def test_ordinary_unicode_and_big_numbers_come_back_as_they_were(api: APIClient) -> None:
    value = ["\U0001f600 ü \u2028", 2**80, -0.5, 1e15, True, None, {"": {}}]
    run = api.post("/runs", {"agent": "anything", "input": {"value": value}}).json()
    assert run["input"]["value"] == value
    assert api.get(f"/runs/{run['id']}").json()["input"]["value"] == value


class TestPriority:
    def test_a_lower_one_is_everybodys_to_choose(self, api: APIClient) -> None:
        response = api.post("/runs", {"agent": "echo", "priority": -7})
        assert (response.status_code, response.json()["priority"]) == (201, -7)
        assert RunRecord.objects.get().priority == -7

    @pytest.mark.parametrize(("number", "priority"), [("-7.0", -7), ("-1e1", -10), ("-0.0", 0)])
    def test_may_be_written_in_each_way_of_json(
        self, api: APIClient, number: str, priority: int
    ) -> None:
        body = f'{{"agent": "echo", "priority": {number}}}'
        response = api.post("/runs", body, content_type="application/json")
        assert (response.status_code, response.json()["priority"]) == (201, priority)

    def test_a_higher_one_takes_the_permission(
        self, api: APIClient, alice: User, client_of: Callable[[User], APIClient]
    ) -> None:
        body = {"agent": "echo", "priority": 1}
        response = api.post("/runs", body)
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
        assert not RunRecord.objects.exists()
        alice.user_permissions.add(Permission.objects.get(codename="prioritise_runrecord"))
        response = client_of(alice).post("/runs", body)
        assert (response.status_code, response.json()["priority"]) == (201, 1)

    def test_without_one_it_has_its_agents(self, api: APIClient) -> None:
        @agent("urgent", priority=5)
        async def urgent(tools: Tools) -> None: ...

        priorities = [
            api.post("/runs", {"agent": "urgent", **body}).json()["priority"]
            for body in ({}, {"priority": 5}, {"priority": 1})
        ]
        assert priorities == [5, 5, 1]

    def test_it_is_part_of_what_a_key_stands_for(self, api: APIClient) -> None:
        body = {"agent": "echo"}
        status = [
            api.post("/runs", each, HTTP_IDEMPOTENCY_KEY="k").status_code
            for each in (body, body, {**body, "priority": 0}, {**body, "priority": -1})
        ]
        assert status == [201, 200, 422, 422]


class TestSize:
    def test_more_than_the_limit_is_413(self, api: APIClient, options: Callable[..., None]) -> None:
        options(MAX_INPUT_BYTES=1000)
        response = api.post("/runs", {"agent": "echo", "input": {"text": "x" * 1000}})
        assert response.status_code == 413
        assert response.json()["code"] == "input_too_large"
        assert not RunRecord.objects.exists()

    def test_it_is_counted_before_it_is_parsed(
        self, api: APIClient, options: Callable[..., None]
    ) -> None:
        options(MAX_INPUT_BYTES=1000)
        response = api.post("/runs", b"{" * 1001, content_type="application/json")
        assert response.status_code == 413

    def test_the_limit_itself_is_allowed(
        self, api: APIClient, options: Callable[..., None]
    ) -> None:
        body = b'{"agent": "echo", "input": {"text": "xxxxxxxxxxxxxxxxxxx"}}'
        options(MAX_INPUT_BYTES=len(body))
        response = api.post("/runs", body, content_type="application/json")
        assert response.status_code == 201

    def test_ten_megabytes_are_413(self, api: APIClient) -> None:
        response = api.post("/runs", {"agent": "echo", "input": {"text": "x" * 10_000_000}})
        assert response.status_code == 413
        assert response.json()["code"] == "input_too_large"

    @pytest.mark.django_db(transaction=True)
    def test_a_body_in_chunks_is_read_and_counted(
        self, api: APIClient, options: Callable[..., None]
    ) -> None:
        options(MAX_INPUT_BYTES=100)
        assert _post_in_chunks(api, b'{"agent": "echo"}') == 201
        assert _post_in_chunks(api, b'{"agent": "' + b"x" * 200 + b'"}') == 413


def _post_in_chunks(api: APIClient, body: bytes) -> int:
    """POST /runs without a Content-Length, as ASGI servers hand it on; return the status."""
    parts = [body[i : i + 7] for i in range(0, len(body), 7)]
    sent: list[dict[str, Any]] = []

    async def call() -> None:
        over = asyncio.Event()
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        messages.append({"type": "http.request", "body": b"", "more_body": False})

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await over.wait()
            raise AssertionError("not reached")

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/runs",
            "query_string": b"",
            "headers": [
                (b"host", b"testserver"),
                (b"authorization", api._credentials["HTTP_AUTHORIZATION"].encode()),
                (b"content-type", b"application/json"),
                (b"transfer-encoding", b"chunked"),
            ],
        }
        await Handler()(scope, receive, send)

    asyncio.run(call())
    return int(sent[0]["status"])


class TestIdempotency:
    BODY = {"agent": "echo", "input": {"text": "a", "times": 2}}

    def test_the_same_key_and_body_give_the_same_run(self, api: APIClient) -> None:
        first = api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY="k1")
        again = api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY="k1")
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        assert RunRecord.objects.count() == 1

    def test_the_order_of_keys_makes_no_other_body(self, api: APIClient) -> None:
        api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY="k1")
        turned = {"input": {"times": 2, "text": "a"}, "agent": "echo"}
        assert api.post("/runs", turned, HTTP_IDEMPOTENCY_KEY="k1").status_code == 200

    @pytest.mark.parametrize(
        "other", [{"agent": "anything"}, {"agent": "echo", "input": {"text": "b", "times": 2}}]
    )
    def test_another_body_is_422(self, api: APIClient, other: dict[str, Any]) -> None:
        api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY="k1")
        response = api.post("/runs", other, HTTP_IDEMPOTENCY_KEY="k1")
        assert response.status_code == 422
        assert response.json()["code"] == "idempotency_mismatch"
        assert RunRecord.objects.count() == 1

    def test_keys_are_per_owner(
        self, api: APIClient, bob: User, client_of: Callable[[User], APIClient]
    ) -> None:
        mine = api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY="k1")
        theirs = client_of(bob).post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY="k1")
        assert theirs.status_code == 201
        assert theirs.json()["id"] != mine.json()["id"]

    def test_no_key_makes_a_run_each_time(self, api: APIClient) -> None:
        assert api.post("/runs", self.BODY).json() != api.post("/runs", self.BODY).json()

    @pytest.mark.parametrize("key", ["k", "~" * 255, "a key with spaces", "!@#$%^&*()"])
    def test_printable_ascii_is_a_key(self, api: APIClient, key: str) -> None:
        assert api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY=key).status_code == 201

    @pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel", "a\0b", "a\tb", "a\x7f", "\ud800"])
    def test_anything_else_is_400(self, api: APIClient, key: str) -> None:
        response = api.post("/runs", self.BODY, HTTP_IDEMPOTENCY_KEY=key)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_input"
        assert "Idempotency-Key" in response.json()["fields"]
        assert not RunRecord.objects.exists()
