"""The OpenAPI document, and the pages made of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from drf_spectacular import drainage
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator
from rest_framework.test import APIClient

from runs.actions import stopping
from runs.identity import tokens
from runs.web.api import documents, urls
from runs.wire import get_for_wire, run_as_dict

pytestmark = pytest.mark.django_db

OPERATIONS = {
    ("/agents", "get"): "list_agents",
    ("/runs", "get"): "list_runs",
    ("/runs", "post"): "start_run",
    ("/runs/batch", "post"): "start_runs",
    ("/runs/{id}", "get"): "get_run",
    ("/runs/{id}/stop", "post"): "stop_run",
    ("/runs/stop", "post"): "stop_runs",
    ("/runs/{id}/limits", "post"): "change_limits",
    ("/runs/{id}/events", "get"): "list_events",
    ("/api-token", "post"): "obtain_token",
    ("/quotas", "get"): "list_quotas",
    ("/api-tokens", "get"): "list_tokens",
    ("/api-tokens/{id}", "delete"): "revoke_token",
}


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    response = client.get("/api/schema")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def test_the_document_is_valid_and_made_without_a_warning(document: dict[str, Any]) -> None:
    validate_schema(document)
    drainage.reset_generator_stats()
    documents.SchemaView(patterns=urls.documented)._make("/")
    assert not drainage.GENERATOR_STATS


def test_it_has_every_operation_under_a_readable_name(document: dict[str, Any]) -> None:
    found = {
        (path, method): operation["operationId"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert found == OPERATIONS


def test_it_needs_no_login_and_comes_as_json_or_yaml(client: Client) -> None:
    for path in ("/api/schema", "/api/schema/"):
        assert client.get(path)["Content-Type"] == "application/json"
    yaml = client.get("/api/schema", headers={"accept": "application/yaml"})
    assert yaml.content.startswith(b"openapi:")


def test_it_tells_of_headers_and_of_who_may(document: dict[str, Any]) -> None:
    start = document["paths"]["/runs"]["post"]
    assert {one["name"] for one in start["parameters"]} == {"Idempotency-Key"}
    assert "Location" in start["responses"]["201"]["headers"]
    assert "WWW-Authenticate" in start["responses"]["401"]["headers"]
    assert "Retry-After" in start["responses"]["429"]["headers"]
    assert [set(one) for one in start["security"]] == [{"tokenAuth"}, {"cookieAuth"}]
    assert "security" not in document["paths"]["/api-token"]["post"]
    stop = document["paths"]["/runs/{id}/stop"]["post"]
    assert {one["name"] for one in stop["parameters"]} == {"id", "wait"}
    assert {"200", "202", "403", "404", "409"} <= set(stop["responses"])


def test_every_error_has_the_one_shape(document: dict[str, Any]) -> None:
    shapes = {
        response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if status >= "400"
    }
    assert shapes == {"Error", "FinishedError", "QuotaError"}
    assert set(document["components"]["schemas"]["Error"]["properties"]) == {
        "code", "detail", "fields",
    }  # fmt: skip


def test_a_429_names_the_quotas_that_can_refuse_that_operation(document: dict[str, Any]) -> None:
    named = {
        (path, method): set(
            re.findall("`(quota_[a-z]+)`", operation["responses"]["429"]["description"])
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert {where: codes for where, codes in named.items() if codes} == {
        ("/runs", "post"): {"quota_queued", "quota_stored"},
        ("/runs/{id}/events", "get"): {"quota_feeds"},
    }


def test_every_answer_is_as_it_is_described(
    api: APIClient, runs: Any, document: dict[str, Any]
) -> None:
    stopped = runs.running()
    stopping.request_stop(stopped.pk, via="api", by=runs.owner)
    runs.end(stopped, "stopped", cleanup_error={"code": "c", "type": "t", "message": "m"})
    waiting = runs.tell(runs.running(), 2)
    error = {"code": "c", "type": "t", "message": "m"}
    runs.end(runs.running(), "error", error=error)
    over = runs.success({"a": [None]})
    tokens.create(runs.owner)
    answers = [
        ("/agents", "get", api.get("/agents")),
        ("/runs", "get", api.get("/runs?page_size=2")),
        ("/runs", "post", api.post("/runs", {"agent": "echo"})),
        ("/runs", "post", api.post("/runs", {"agent": "strict", "input": {}})),
        ("/runs", "post", APIClient().post("/runs")),
        *(("/runs/{id}", "get", api.get(f"/runs/{run.pk}")) for run in (stopped, waiting, over)),
        ("/runs/{id}/events", "get", api.get(f"/runs/{waiting.pk}/events")),
        ("/runs/{id}/stop", "post", api.post(f"/runs/{waiting.pk}/stop")),
        ("/runs/{id}/stop", "post", api.post(f"/runs/{over.pk}/stop")),
        ("/runs/stop", "post", api.post("/runs/stop", {"filter": {"agent": "echo"}})),
        ("/api-tokens", "get", api.get("/api-tokens")),
    ]
    for path, method, response in answers:
        described = document["paths"][path][method]["responses"][str(response.status_code)]
        schema = described["content"]["application/json"]["schema"]
        _validate(response.json(), schema, document)


def test_what_is_described_is_what_is_written(runs: Any, document: dict[str, Any]) -> None:
    run = runs.running()
    stopping.request_stop(run.pk, via="api", by=runs.owner)
    written = run_as_dict(get_for_wire(run.pk))
    schemas = document["components"]["schemas"]
    for name, value in (
        ("Run", written),
        ("Receipt", written["stop"]),
        ("Usage", written["usage"]),
    ):
        assert set(value) == set(schemas[name]["properties"]) == set(schemas[name]["required"])
    event = runs.tell(run, 1).events.get()
    assert set(event.as_dict()) == set(schemas["Event"]["required"])


def _validate(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    whole = _with_null({"components": document["components"], **schema})
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def _with_null(schema: Any) -> Any:
    """Say OpenAPI 3.0's ``nullable`` as JSON Schema does."""
    if isinstance(schema, list):
        return [_with_null(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _with_null(one) for name, one in schema.items() if name != "nullable"}
    return {"anyOf": [{"type": "null"}, inner]} if schema.get("nullable") is True else inner


@pytest.mark.parametrize("version", ["%00", "%7f", "2"])
def test_nothing_of_the_request_is_in_a_header(client: Client, version: str) -> None:
    """uvicorn refuses to send a control character, and logs a traceback."""
    asked = client.get(f"/api/schema?version={version}")
    plain = client.get("/api/schema")
    assert asked.status_code == 200
    assert asked["Content-Disposition"] == plain["Content-Disposition"]


class TestDocs:
    def test_it_is_only_read(self, client: Client) -> None:
        assert client.options("/api/docs").status_code == 405

    def test_the_page_has_no_inline_script_or_style(self, client: Client) -> None:
        response = client.get("/api/docs", headers={"accept": "text/html"})
        assert response.status_code == 200
        page = response.content.decode()
        assert "unsafe" not in response["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
        addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(addresses) >= 5
        for address in addresses:
            assert address.startswith("/")
            part = client.get(address.replace("&amp;", "&"))
            assert part.status_code == 200
            part.close()

    def test_the_page_names_the_document(self, client: Client) -> None:
        assert 'data-document="/api/schema"' in client.get("/api/docs").content.decode()
