"""Every error has one shape: {code, detail, fields?}; none is a 500."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django import db
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from runs.actions import starting
from runs.identity import tokens
from runs.models import RunEvent, RunInput, RunRecord

pytestmark = pytest.mark.django_db

ID = "00000000-0000-7000-8000-000000000000"
GUARDED = [
    ("get", "/agents"),
    ("get", "/runs"),
    ("post", "/runs"),
    ("get", f"/runs/{ID}"),
    ("get", "/runs/nonsense"),
    ("post", f"/runs/{ID}/stop"),
    ("post", "/runs/stop"),
    ("get", f"/runs/{ID}/events"),
]


def _is_error(response: Any, status: int, code: str) -> bool:
    assert (response.status_code, response.json().get("code")) == (status, code), response.content
    assert response["Content-Type"] == "application/json"
    assert isinstance(response.json()["detail"], str)
    assert response.json()["detail"]
    assert set(response.json()) <= {"code", "detail", "fields", "run"}
    return True


class TestIdentity:
    @pytest.mark.parametrize(("method", "path"), GUARDED)
    def test_nobody_is_401_with_a_challenge(self, method: str, path: str) -> None:
        for slash in ("", "/"):
            response = getattr(APIClient(), method)(path + slash)
            assert _is_error(response, 401, "not_authenticated")
            assert response["WWW-Authenticate"] == "Token"

    @pytest.mark.parametrize(
        "header",
        ["Token", "Token ", "Token x", "Token a b", "Token \0", "Token " + "0" * 40, "Token é",
         "Bearer x", "Basic YTpi", "x" * 5000, "Token " + "a" * 5000],
    )  # fmt: skip
    def test_a_wrong_token_is_401_with_a_challenge(self, header: str) -> None:
        response = APIClient().get("/runs", HTTP_AUTHORIZATION=header)
        assert _is_error(response, 401, "not_authenticated")
        assert response["WWW-Authenticate"] == "Token"

    def test_the_token_of_one_who_is_not_active_is_refused(
        self, api: APIClient, alice: User
    ) -> None:
        assert api.get("/runs").status_code == 200
        User.objects.filter(pk=alice.pk).update(is_active=False)
        assert _is_error(api.get("/runs"), 401, "not_authenticated")

    def test_a_wrong_token_is_401_even_with_a_session(self, alice: User) -> None:
        client = APIClient()
        client.force_login(alice)
        assert client.get("/runs").status_code == 200
        response = client.get("/runs", HTTP_AUTHORIZATION="Token wrong")
        assert _is_error(response, 401, "not_authenticated")

    def test_a_session_may_read_and_with_its_csrf_token_write(self, alice: User) -> None:
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(alice)
        assert client.get("/runs").status_code == 200
        assert _is_error(client.post("/runs", {"agent": "echo"}), 403, "csrf_failed")
        assert _is_error(client.post(f"/runs/{ID}/stop"), 403, "csrf_failed")
        assert not RunRecord.objects.exists()
        token = "a" * 32
        client.cookies["csrftoken"] = token
        response = client.post("/runs", {"agent": "echo"}, HTTP_X_CSRFTOKEN=token)
        assert response.status_code == 201

    def test_the_csrf_check_does_not_read_the_body(self, alice: User, settings: Any) -> None:
        """Else Django refuses one that is larger than a site lets its forms be."""
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(alice)
        client.cookies["csrftoken"] = "x" * 32
        body = {"agent": "echo", "input": {"text": "hello"}}
        assert client.post("/runs", body, HTTP_X_CSRFTOKEN="x" * 32).status_code == 201

    def test_a_token_needs_no_csrf_token(self, alice: User) -> None:
        client = APIClient(enforce_csrf_checks=True)
        client.credentials(HTTP_AUTHORIZATION=f"Token {tokens.create(alice)[0]}")
        assert client.post("/runs", {"agent": "echo"}).status_code == 201

    @pytest.mark.parametrize("cookie", ["x", '"aaaaaaaa\\000bbbb"', "é" * 9, "a" * 3000])
    def test_a_nonsense_session_is_401(self, cookie: str) -> None:
        response = Client().get("/runs", headers={"cookie": f"sessionid={cookie}"})
        assert _is_error(response, 401, "not_authenticated")

    def test_a_multipart_body_with_a_session_is_415(self, alice: User) -> None:
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(alice)
        for body in (b"--x--", b"nonsense"):
            response = client.generic(
                "POST", "/runs", body, content_type="multipart/form-data; boundary=x"
            )
            assert _is_error(response, 415, "unsupported_media_type")


class TestMethods:
    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("delete", "/runs", {"GET", "POST"}),
            ("put", "/runs/", {"GET", "POST"}),
            ("post", "/agents", {"GET"}),
            ("delete", f"/runs/{ID}", {"GET"}),
            ("patch", f"/runs/{ID}/", {"GET"}),
            ("get", f"/runs/{ID}/stop", {"POST"}),
            ("get", "/runs/stop", {"POST"}),
            ("head", "/runs/stop", {"POST"}),
            ("delete", f"/runs/{ID}/events", {"GET"}),
            ("trace", "/runs", {"GET", "POST"}),
            ("get", "/api-token", {"POST"}),
        ],
    )
    def test_a_wrong_method_is_405_and_says_what_is_allowed(
        self, api: APIClient, method: str, path: str, allowed: set[str]
    ) -> None:
        response = api.generic(method.upper(), path)
        assert response.status_code == 405
        if method != "head":
            assert _is_error(response, 405, "method_not_allowed")
        found = {word.strip() for word in response["Allow"].split(",")}
        assert found - {"HEAD", "OPTIONS"} == allowed

    def test_head_answers_like_get_without_a_body(self, api: APIClient, runs: Any) -> None:
        for path in ("/agents", "/runs", f"/runs/{runs.queued().pk}"):
            response = api.head(path)
            assert response.status_code == 200
            assert response.content == b""
        assert api.head(f"/runs/{ID}").status_code == 404

    @pytest.mark.parametrize(("method", "path"), GUARDED)
    def test_options_says_what_is_allowed_to_those_who_may_ask(
        self, api: APIClient, method: str, path: str
    ) -> None:
        assert _is_error(APIClient().options(path), 401, "not_authenticated")
        response = api.options(path)
        assert response.status_code == 200
        assert method.upper() in response["Allow"]

    def test_options_of_a_feed_are_json_also_for_readers_of_streams(self, api: APIClient) -> None:
        response = api.options(f"/runs/{ID}/events", headers={"accept": "text/event-stream"})
        assert response.status_code == 200
        assert response["Content-Type"] == "application/json"


class TestAddresses:
    @pytest.mark.parametrize(
        "path",
        [f"/runs/{ID}/nothing", "/runs/a/b/c", "/agents/echo", "/api/nothing", "/api-token/x",
         "/runs//", "/runs%0A", f"/runs/{ID}/stop%0A", "/agents%0a", f"/runs/{ID}/events/1"],
    )  # fmt: skip
    @pytest.mark.parametrize("debug", [True, False])
    def test_an_unknown_address_is_404(
        self, api: APIClient, settings: Any, path: str, debug: bool
    ) -> None:
        settings.DEBUG = debug
        assert _is_error(api.get(path, HTTP_ACCEPT="application/json"), 404, "not_found")


class TestContent:
    @pytest.mark.parametrize(
        "accept",
        ["text/event-stream", "text/html", "application/xml", "image/*", "x", "application/json;q"],
    )
    def test_what_is_not_json_is_not_acceptable(self, api: APIClient, accept: str) -> None:
        response = api.get("/runs", HTTP_ACCEPT=accept)
        assert response.status_code in (200, 406)
        if "json" not in accept:
            assert _is_error(response, 406, "not_acceptable")

    @pytest.mark.parametrize(
        "accept", ["*/*", "application/*", "text/html,*/*;q=0.8", "application/json; indent=2"]
    )
    def test_json_is_acceptable(self, api: APIClient, accept: str) -> None:
        response = api.get("/runs", HTTP_ACCEPT=accept)
        assert response.status_code == 200
        assert response["Content-Type"].startswith("application/json")

    @pytest.mark.parametrize(
        "content_type",
        ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
         "application/xml", "application/jsonp", "/", ";", "application/json" + "x" * 5000],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/runs", "/runs/stop", f"/runs/{ID}/stop", "/api-token"])
    def test_a_body_of_another_type_is_415(
        self, api: APIClient, path: str, content_type: str
    ) -> None:
        response = api.generic("POST", path, b"agent=echo", content_type=content_type)
        if path == f"/runs/{ID}/stop":
            assert response.status_code in (404, 415)
        else:
            assert _is_error(response, 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/json;",
            "application/json; x=\udcff",
        ],
    )
    def test_json_may_have_parameters(self, api: APIClient, content_type: str) -> None:
        body = b'{"agent": "echo"}'
        assert api.generic("POST", "/runs", body, content_type=content_type).status_code == 201

    @pytest.mark.parametrize(
        "body",
        [
            b"{", b"x", b" ", b"'a'", b"{'agent': 'echo'}", b'{"agent": "echo",}', b"\xff",
            b'{"agent": "\xff"}', b'{"agent": "echo"} {}', b"\x00", b'{"agent": "a\x00"}',
            b'\xef\xbb\xbf{"agent": "echo"}', '{"agent": "echo"}'.encode("utf-16"),
            b'{"agent": "anything", "input": {"value": NaN}}',
            b'{"agent": "anything", "input": {"value": Infinity}}',
            b'{"agent": "anything", "input": {"value": -Infinity}}',
            b'{"agent": "anything", "input": {"value": ' + b"1" * 5000 + b"}}",
            b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000,
            b'{"agent": "anything", "input": {"value": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
        ],
        ids=lambda body: repr(body[:40]),
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/runs", "/runs/stop", "/api-token"])
    def test_what_is_no_json_is_invalid_json(self, api: APIClient, path: str, body: bytes) -> None:
        response = api.post(path, body, content_type="application/json")
        assert _is_error(response, 400, "invalid_json")

    @pytest.mark.parametrize(
        ("body", "detail"),
        [
            (b" \n", "The body is not valid JSON: it is empty."),
            (b'{"agent":', "The body is not valid JSON: it ends too early, in line 1, column 10."),
            (b"{a: 1}", "The body is not valid JSON: a key in double quotes is expected in line 1, "
             "column 2."),
            (b'{"a" 1}', "The body is not valid JSON: a colon is expected in line 1, column 6."),
            (b'{"a": 01}', "The body is not valid JSON: a comma or a closing bracket is expected "
             "in line 1, column 8."),
            (b'{} {"b": 1}', "The body is not valid JSON: there is more after its end in line 1, "
             "column 4."),
            (b'{"a": "b', "The body is not valid JSON: a text has no end that starts in line 1, "
             "column 7."),
            (b'{"a": "\n"}', "The body is not valid JSON: a control character must be escaped in "
             "line 1, column 8."),
            (b'{"a": "\\x"}', "The body is not valid JSON: there is no such escape in line 1, "
             "column 8."),
            (b'{"a": "\\u12"}', "The body is not valid JSON: four hexadecimal digits are expected "
             "in line 1, column 9."),
            (b'{"a": NaN}', "The body is not valid JSON: NaN is not a JSON value."),
            (b'{"a": ' + b"1" * 5_000 + b"}", "The body has a number of more than 4,300 digits."),
            (b"[" * 100_000, "The body is nested too deep."),
            (b'{"a": "\xff"}', "The body is not valid UTF-8 (byte 7)."),
            (b"\xef\xbb\xbf{}", "The body starts with a byte order mark; leave it out."),
            ("{}".encode("utf-16"), "The body must be in UTF-8; it looks like UTF-16."),
            ("{}".encode("utf-16-be"), "The body must be in UTF-8; it looks like UTF-16."),
            ("{}".encode("utf-32-le"), "The body must be in UTF-8; it looks like UTF-32."),
            (b"[]", "The body must be a JSON object."),
        ],
        ids=lambda value: repr(value[:30]),
    )  # fmt: skip
    def test_it_is_told_what_is_wrong_in_our_words(
        self, api: APIClient, body: bytes, detail: str
    ) -> None:
        answer = api.post("/runs", body, content_type="application/json").json()
        assert answer["detail"] == detail

    @pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, gzip"])
    def test_a_compressed_body_is_415(self, api: APIClient, encoding: str) -> None:
        response = api.post(
            "/runs", b"{}", content_type="application/json", HTTP_CONTENT_ENCODING=encoding
        )
        assert _is_error(response, 415, "unsupported_media_type")
        assert encoding in response.json()["detail"]

    def test_so_it_is_when_stopping(self, api: APIClient, runs: Any) -> None:
        run = runs.queued()
        response = api.post(f"/runs/{run.pk}/stop", b"{", content_type="application/json")
        assert _is_error(response, 400, "invalid_json")
        assert RunRecord.objects.get(pk=run.pk).stop_requested_at is None

    @pytest.mark.parametrize("body", [b"[]", b"null", b'"echo"', b"5", b"true", b"1e999"])
    @pytest.mark.parametrize("path", ["/runs", "/runs/stop", "/api-token"])
    def test_json_that_is_no_object_is_invalid_input(
        self, api: APIClient, path: str, body: bytes
    ) -> None:
        response = api.post(path, body, content_type="application/json")
        assert _is_error(response, 400, "invalid_input")

    def test_of_keys_that_come_twice_the_last_one_counts(self, api: APIClient) -> None:
        body = b'{"agent": "nobody", "agent": "echo"}'
        assert api.post("/runs", body, content_type="application/json").status_code == 201

    @pytest.mark.parametrize("name", ["\0", "\ud800", "x" * 10_000, "", "__proto__", "a.b"])
    @pytest.mark.parametrize("path", ["/runs", "/runs/stop", "/api-token"])
    def test_any_unknown_name_can_be_told(self, api: APIClient, path: str, name: str) -> None:
        import json

        body = json.dumps({name: 1, "agent": "echo", "filter": {name: 1}}).encode()
        response = api.post(path, body, content_type="application/json")
        assert _is_error(response, 400, "invalid_input")

    @pytest.mark.parametrize("depth", [99, 150, 500, 900, 990, 5000])
    @pytest.mark.parametrize("name", ["mode", "reason", "ids", "filter", "else", "input"])
    def test_nesting_anywhere_is_400(self, api: APIClient, depth: int, name: str) -> None:
        body = f'{{"{name}": ' + "[" * depth + "]" * depth + "}"
        response = api.post("/runs/stop", body.encode(), content_type="application/json")
        assert response.status_code == 400

    def test_answers_are_not_to_be_stored(self, api: APIClient) -> None:
        assert api.get("/runs")["Cache-Control"] == "no-store"


class TestDatabase:
    """202 and 201 only after it is committed; otherwise an error, and nothing is half done."""

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("table", ["runs_runrecord", "runs_runinput"])
    def test_a_start_that_is_refused_is_503_and_leaves_nothing(
        self, api: APIClient, table: str
    ) -> None:
        with _refusing("INSERT", table):
            response = api.post("/runs", {"agent": "echo"}, HTTP_IDEMPOTENCY_KEY="k")
            assert _is_error(response, 503, "unavailable")
        assert response["Retry-After"]
        assert not RunRecord.objects.exists()
        assert not RunInput.objects.exists()
        again = api.post("/runs", {"agent": "echo"}, HTTP_IDEMPOTENCY_KEY="k")
        assert again.status_code == 201

    @pytest.mark.django_db(transaction=True)
    def test_a_stop_that_is_refused_is_503_and_trips_no_token(
        self, api: APIClient, runs: Any
    ) -> None:
        run = runs.running()
        with _refusing("UPDATE", "runs_runrecord"):
            assert _is_error(api.post(f"/runs/{run.pk}/stop"), 503, "unavailable")
            response = api.post("/runs/stop", {"ids": [str(run.pk)]})
            assert _is_error(response, 503, "unavailable")
        run.refresh_from_db()
        assert run.stop_requested_at is None
        assert not runs.entry(run).token.stopped
        assert api.post(f"/runs/{run.pk}/stop").status_code == 202

    @pytest.mark.django_db(transaction=True)
    def test_a_queued_run_is_stopped_with_its_events_or_not_at_all(
        self, api: APIClient, runs: Any
    ) -> None:
        run = runs.queued()
        with _refusing("INSERT", "runs_runevent"):
            assert _is_error(api.post(f"/runs/{run.pk}/stop"), 503, "unavailable")
        run.refresh_from_db()
        assert (run.status, run.stop_requested_at) == ("queued", None)
        assert not RunEvent.objects.exists()

    @pytest.mark.parametrize(
        "error",
        [db.OperationalError, db.InterfaceError, db.DatabaseError, db.InternalError, db.DataError],
    )
    @pytest.mark.parametrize(("method", "path"), GUARDED)
    def test_a_database_that_is_away_is_503_everywhere(
        self, api: APIClient, method: str, path: str, error: type[Exception]
    ) -> None:
        def refuse(execute: Any, sql: str, *rest: Any) -> None:
            raise error("secret details of the database")

        with connection.execute_wrapper(refuse):
            response = getattr(api, method)(path, {} if method == "post" else None)
        assert _is_error(response, 503, "unavailable")
        assert "secret" not in response.content.decode()

    def test_what_is_not_the_database_s_fault_is_500_without_a_traceback(
        self, api: APIClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise RuntimeError("secret details of a bug")

        monkeypatch.setattr(starting, "start_run", fail)
        api.raise_request_exception = False
        response = api.post("/runs", {"agent": "echo"})
        assert _is_error(response, 500, "server_error")
        assert "secret" not in response.content.decode()


@contextmanager
def _refusing(action: str, table: str) -> Iterator[None]:
    """Let the database itself refuse to write to a table."""
    name = f"refuse_{uuid.uuid4().hex}"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"CREATE FUNCTION {name}() RETURNS trigger AS "
                "$$ BEGIN RAISE EXCEPTION 'refused'; END $$ LANGUAGE plpgsql"
            )
            cursor.execute(
                f"CREATE TRIGGER {name} BEFORE {action} ON {table} "
                f"FOR EACH ROW EXECUTE FUNCTION {name}()"
            )
        else:
            cursor.execute(
                f"CREATE TRIGGER {name} BEFORE {action} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"DROP FUNCTION {name} CASCADE")
            else:
                cursor.execute(f"DROP TRIGGER {name}")


def test_hosts_of_others_are_refused_in_the_same_shape(
    api: APIClient, settings: Any, client_of: Callable[[User], APIClient]
) -> None:
    settings.ALLOWED_HOSTS = ["example.org"]
    assert _is_error(api.get("/runs", HTTP_HOST="evil.example"), 400, "bad_request")


class TestUnknownAddresses:
    """What does not exist is 404, before anything else is asked."""

    @pytest.mark.parametrize(
        "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]
    )
    @pytest.mark.parametrize(
        "path",
        ["/api/nothing", "/api", "/agents/nobody", f"/runs/{ID}/nothing", "/runs//", "/quotas/x",
         "/api-token/x", "/health/x", "/runs/stop/x/y"],
    )  # fmt: skip
    @pytest.mark.parametrize("who", ["nobody", "token", "wrong token", "session"])
    def test_is_404(self, alice: User, method: str, path: str, who: str) -> None:
        client = APIClient(enforce_csrf_checks=True)
        if who == "session":
            client.force_login(alice)
        elif who != "nobody":
            key = tokens.create(alice)[0] if who == "token" else "x"
            client.credentials(HTTP_AUTHORIZATION=f"Token {key}")
        response = client.generic(method, path, b"{}", content_type="application/json")
        assert response.status_code == 404
        if method != "HEAD":
            assert _is_error(response, 404, "not_found")
