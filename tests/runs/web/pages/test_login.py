"""Signing in and out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from runs.ops.accounts import create_missing_demo_users

pytestmark = pytest.mark.django_db

SIGN_IN = "/accounts/login/"
HTML = {"accept": "text/html"}


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice", password="alice's password")


def sign_in(client: Client, password: str = "alice's password", **more: str) -> Any:
    return client.post(SIGN_IN, {"username": "alice", "password": password, **more})


def test_the_root_leads_to_the_agents(client: Client) -> None:
    assert client.get("/")["Location"] == "/app/"


def test_the_first_page_asks_strangers_to_sign_in(client: Client) -> None:
    assert client.get("/app/")["Location"] == "/accounts/login/?next=/app/"


def test_signing_in_leads_to_where_one_wanted_to_go(client: Client, alice: User) -> None:
    page = client.get(f"{SIGN_IN}?next=/app/runs/%3Fstatus%3Derror").content.decode()
    assert 'name="next" value="/app/runs/?status=error"' in page
    assert sign_in(client, next="/app/runs/?status=error")["Location"] == "/app/runs/?status=error"


def test_signing_in_leads_nowhere_else(client: Client, alice: User) -> None:
    assert sign_in(client, next="https://evil.example.net/")["Location"] == "/"


def test_a_wrong_password_is_said_and_the_name_is_kept(client: Client, alice: User) -> None:
    response = sign_in(client, "wrong", next="/app/runs/")
    content = response.content.decode()
    assert "Please enter a correct username and password" in content
    assert 'value="alice"' in content
    assert 'name="next" value="/app/runs/"' in content
    assert "wrong" not in content


def test_an_empty_field_is_said_beside_it(client: Client) -> None:
    content = client.post(SIGN_IN, {"username": "", "password": "x"}).content.decode()
    assert re.search(r'id="username-error">This field is required', content)


def test_password_managers_find_the_fields(client: Client) -> None:
    content = client.get(SIGN_IN).content.decode()
    assert re.search(r'name="username"[^>]* autocomplete="username"', content)
    assert re.search(r'name="password"[^>]* autocomplete="current-password"', content)


def test_whoever_is_signed_in_goes_on_at_once(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get(SIGN_IN)["Location"] == "/"
    assert client.get(f"{SIGN_IN}?next=/app/runs/")["Location"] == "/app/runs/"


def test_signing_out_says_so_once(client: Client, alice: User) -> None:
    client.force_login(alice)
    response = client.post("/accounts/logout/")
    assert response["Location"] == SIGN_IN
    assert "You are signed out." in client.get(SIGN_IN).content.decode()
    assert "You are signed out." not in client.get(SIGN_IN).content.decode()
    assert client.get("/app/").status_code == 302


def test_signing_out_takes_a_post(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/accounts/logout/").status_code == 405
    assert client.get("/app/").status_code == 200


def test_open_demo_users_are_only_told_of_in_debug(client: Client, settings: Any) -> None:
    create_missing_demo_users()
    User.objects.get(username="admin").delete()
    settings.DEBUG = True
    page = client.get(SIGN_IN).content.decode()
    assert "<code>demo / demo</code>" in page
    assert "admin / admin" not in page
    settings.DEBUG = False
    assert "demo / demo" not in client.get(SIGN_IN).content.decode()


def test_a_demo_user_with_a_password_of_its_own_is_not_told_of(
    client: Client, settings: Any
) -> None:
    create_missing_demo_users()
    settings.DEBUG = True
    assert "demo / demo" in client.get(SIGN_IN).content.decode()
    demo = User.objects.get(username="demo")
    demo.set_password("secret")
    demo.save()
    assert "demo / demo" not in client.get(SIGN_IN).content.decode()


class TestAStaleTab:
    def test_signing_in_can_be_repeated_and_keeps_its_destination(self) -> None:
        client = Client(enforce_csrf_checks=True)
        client.cookies["csrftoken"] = "a" * 32
        response = client.post(f"{SIGN_IN}?next=/app/runs/", {"username": "x"}, headers=HTML)
        content = response.content.decode()
        assert response.status_code == 403
        assert "You have signed in or out since it was opened" in content
        assert 'href="/accounts/login/?next=/app/runs/"' in content

    def test_signing_out_leads_back_to_a_page_that_exists(self, alice: User) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(alice)
        client.cookies["csrftoken"] = "a" * 32
        response = client.post("/accounts/logout/", headers=HTML)
        assert response.status_code == 403
        assert 'href="/app/"' in response.content.decode()
        assert 'href="/accounts/logout/"' not in response.content.decode()

    def test_a_browser_without_cookies_is_told_about_them(self) -> None:
        client = Client(enforce_csrf_checks=True)
        response = client.post(SIGN_IN, {"username": "x"}, headers=HTML)
        assert "Allow cookies for this site" in response.content.decode()
