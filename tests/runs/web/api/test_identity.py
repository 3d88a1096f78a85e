"""POST /api-token, and how often one may ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from rest_framework.test import APIClient

from runs.identity.models import ApiToken
from runs.status import Status
from tests.support.rows import make_run

pytestmark = pytest.mark.django_db

CREDENTIALS = {"username": "alice", "password": "alice's password"}


class TestToken:
    @pytest.mark.parametrize("path", ["/api-token", "/api-token/"])
    def test_a_password_buys_a_token_that_works(self, alice: User, path: str) -> None:
        response = APIClient().post(path, CREDENTIALS)
        assert response.status_code == 200
        assert response.json().keys() == {"token"}
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Token {response.json()['token']}")
        assert client.get("/runs").status_code == 200

    @pytest.mark.parametrize(
        "credentials",
        [{**CREDENTIALS, "password": "wrong"}, {**CREDENTIALS, "username": "nobody"},
         {**CREDENTIALS, "password": CREDENTIALS["password"] + " "}],
    )  # fmt: skip
    def test_wrong_credentials_are_401(self, alice: User, credentials: dict[str, str]) -> None:
        response = APIClient().post("/api-token", credentials)
        assert response.status_code == 401
        assert response.json()["code"] == "not_authenticated"
        assert response["WWW-Authenticate"] == "Token"
        assert not ApiToken.objects.exists()

    def test_one_who_is_not_active_gets_none(self, alice: User) -> None:
        User.objects.filter(pk=alice.pk).update(is_active=False)
        assert APIClient().post("/api-token", CREDENTIALS).status_code == 401

    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            ({}, {"username", "password"}),
            ({"username": "alice"}, {"password"}),
            ({**CREDENTIALS, "username": "a\0"}, {"username"}),
            ({**CREDENTIALS, "password": "a\0"}, {"password"}),
            ({**CREDENTIALS, "username": 5}, {"username"}),
            ({**CREDENTIALS, "password": ""}, {"password"}),
            ({**CREDENTIALS, "password": "x" * 5000}, {"password"}),
            ({**CREDENTIALS, "username": "x" * 300}, {"username"}),
            ({**CREDENTIALS, "token": "x"}, {"token"}),
        ],
    )
    def test_a_wrong_body_is_400(self, body: Any, fields: set[str]) -> None:
        response = APIClient().post("/api-token", body)
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_input"
        assert response.json()["fields"].keys() == fields

    def test_neither_session_nor_csrf_token_matters(self, alice: User) -> None:
        client = APIClient(enforce_csrf_checks=True)
        client.force_login(alice)
        assert client.post("/api-token", CREDENTIALS).status_code == 200


class TestThrottle:
    def test_beyond_the_rate_is_429_with_retry_after(
        self, api: APIClient, options: Callable[..., None]
    ) -> None:
        options(API_THROTTLE_RATE="2/min")
        assert [api.get("/runs").status_code for _ in range(3)] == [200, 200, 429]
        response = api.post("/runs", {"agent": "echo"})
        assert response.status_code == 429
        assert response.json()["code"] == "throttled"
        assert 0 < int(response["Retry-After"]) <= 60

    def test_users_are_counted_apart(
        self,
        api: APIClient,
        bob: User,
        client_of: Callable[[User], APIClient],
        options: Callable[..., None],
    ) -> None:
        options(API_THROTTLE_RATE="1/min")
        assert [api.get("/runs").status_code for _ in range(2)] == [200, 429]
        assert client_of(bob).get("/runs").status_code == 200

    @pytest.mark.parametrize("door", ["/runs/{}/stop", "/app/runs/{}/stop", "/runs/stop"])
    def test_nobody_is_refused_a_stop(
        self, door: str, api: APIClient, alice: User, options: Callable[..., None]
    ) -> None:
        run = make_run(alice, status=Status.RUNNING)
        options(API_THROTTLE_RATE="1/min")
        assert [api.get("/runs").status_code for _ in range(2)] == [200, 429]
        body = {"ids": [str(run.pk)]} if door == "/runs/stop" else {}
        browser = APIClient()
        browser.force_login(alice)
        client = browser if door.startswith("/app") else api
        answers = [client.post(door.format(run.pk), body, format="json") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202] * 3
        stranger = APIClient()
        answers = [stranger.post(door.format(run.pk), body, format="json") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [401, 429]

    def test_a_user_is_one_by_token_and_by_session(
        self, api: APIClient, alice: User, options: Callable[..., None]
    ) -> None:
        options(API_THROTTLE_RATE="1/min")
        assert api.get("/runs").status_code == 200
        browser = APIClient()
        browser.force_login(alice)
        assert browser.get("/runs").status_code == 429

    @pytest.mark.parametrize("header", [None, "Token wrong", "Token"])
    def test_who_is_refused_is_counted_by_address(
        self, options: Callable[..., None], header: str | None
    ) -> None:
        options(API_THROTTLE_RATE="2/min")
        extra = {} if header is None else {"HTTP_AUTHORIZATION": header}
        statuses = [APIClient().get("/runs", **extra).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        elsewhere = APIClient().get("/runs", REMOTE_ADDR="192.0.2.1", **extra)
        assert elsewhere.status_code == 401

    def test_strangers_are_counted_where_a_site_says_that_they_are_none(
        self, settings: Any, options: Callable[..., None]
    ) -> None:
        settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "UNAUTHENTICATED_USER": None}
        options(API_THROTTLE_RATE="1/min")
        assert [APIClient().get("/runs").status_code for _ in range(2)] == [401, 429]
        assert [APIClient().post("/runs/stop").status_code for _ in range(2)] == [429, 429]

    def test_passwords_are_counted_by_address_right_or_wrong(
        self, alice: User, options: Callable[..., None]
    ) -> None:
        options(API_THROTTLE_RATE="2/min")
        bodies = [{**CREDENTIALS, "password": "x"}, CREDENTIALS, CREDENTIALS]
        statuses = [APIClient().post("/api-token", body).status_code for body in bodies]
        assert statuses == [401, 200, 429]

    def test_a_forwarded_address_is_not_believed(self, options: Callable[..., None]) -> None:
        options(API_THROTTLE_RATE="1/min")
        statuses = [
            APIClient().get("/runs", HTTP_X_FORWARDED_FOR=f"192.0.2.{n}").status_code
            for n in range(2)
        ]
        assert statuses == [401, 429]

    def test_no_rate_is_no_limit(self, api: APIClient, options: Callable[..., None]) -> None:
        options(API_THROTTLE_RATE=None)
        assert {api.get("/agents").status_code for _ in range(20)} == {200}

    def test_without_the_cache_there_is_no_limit(
        self, api: APIClient, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*arguments: Any, **rest: Any) -> None:
            raise ConnectionError("no cache")

        options(API_THROTTLE_RATE="1/min")
        monkeypatch.setattr(cache, "get", away)
        assert [api.get("/runs").status_code for _ in range(3)] == [200, 200, 200]
