"""Somebody reads the database, finds an old token, or deletes who stopped a run."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.server import Installation, Server

PASSWORD = "ein ganz anderes Wort"


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("stolen"), RUNS_DRAIN_SECONDS="0")


@pytest.fixture(scope="module")
def served(installation: Installation) -> Iterator[Server]:
    with installation.serving() as server:
        yield server


def key_of(server: Server, user: str, password: str) -> str:
    answer = httpx.post(f"{server.url}/api-token", json={"username": user, "password": password})
    return str(answer.raise_for_status().json()["token"])


def status_with(server: Server, key: str) -> int:
    headers = {"Authorization": f"Token {key}"}
    return httpx.get(f"{server.url}/agents", headers=headers).status_code


def in_shell(installation: Installation, statement: str) -> None:
    command = f"from django.contrib.auth.models import User; User.objects.{statement}"
    installation.manage("shell", "--command", command)


def test_no_value_in_the_tables_of_tokens_is_a_key(
    installation: Installation, served: Server
) -> None:
    key = key_of(served, "demo", "demo")
    rows = installation.database.execute("SELECT * FROM identity_apitoken")
    rows += installation.database.execute("SELECT * FROM authtoken_token")
    values = {str(value) for row in rows for value in row if value}
    assert len(values) > 5
    assert key not in values
    assert {status_with(served, value) for value in values} == {401}
    assert status_with(served, key) == 200


def test_a_token_ends_with_the_password(installation: Installation, served: Server) -> None:
    in_shell(installation, "create_user('guest', password='guest')")
    key = key_of(served, "guest", "guest")
    with httpx.Client(base_url=served.url, timeout=30, follow_redirects=True) as browser:

        def send(address: str, **fields: str) -> None:
            browser.get(address)
            fields["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
            answer = browser.post(address, data=fields)
            assert answer.status_code == 200
            assert not answer.url.path.startswith(address), "the form was refused"

        send("/accounts/login/", username="guest", password="guest")
        assert status_with(served, key) == 200
        send(
            "/accounts/password_change/",
            old_password="guest",
            new_password1=PASSWORD,
            new_password2=PASSWORD,
        )
    assert status_with(served, key) == 401
    assert status_with(served, key_of(served, "guest", PASSWORD)) == 200


def test_who_stopped_a_run_is_known_when_the_account_is_gone(
    installation: Installation, served: Server
) -> None:
    run = served.start("site-loop")
    operator = {"Authorization": f"Token {key_of(served, 'admin', 'admin')}"}
    httpx.post(f"{served.url}/runs/{run}/stop?wait=20", headers=operator).raise_for_status()
    in_shell(installation, "get(username='admin').delete()")
    assert served.run(run)["stop"]["requested_by"] == "admin"
    (entry,) = installation.database.execute(
        "SELECT actor, address FROM identity_auditentry WHERE act = 'stop' AND subject LIKE %s",
        f"%{run}%",
    )
    assert tuple(entry) == ("admin", "127.0.0.1")
