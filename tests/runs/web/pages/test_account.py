"""The pages of one's own account: API tokens, and the change of the password."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from rest_framework.test import APIClient

from runs.identity import tokens
from runs.identity.models import ApiToken

pytestmark = pytest.mark.django_db

TOKENS, PASSWORD = "/app/tokens/", "/accounts/password_change/"
OLD, NEW = "alice's password", "a better one, for a while"


@pytest.fixture
def alice() -> User:
    cache.clear()  # it counts wrong passwords
    return User.objects.create_user("alice", password=OLD)


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


def test_the_menu_leads_to_both(browser: Client) -> None:
    page = browser.get("/app/").content.decode()
    assert f'href="{TOKENS}"' in page
    assert f'href="{PASSWORD}"' in page


@pytest.mark.parametrize("address", [TOKENS, PASSWORD])
def test_strangers_sign_in_first(client: Client, address: str) -> None:
    assert client.get(address)["Location"] == f"/accounts/login/?next={address}"
    assert client.post(address)["Location"] == f"/accounts/login/?next={address}"


class TestTokens:
    def test_a_new_one_is_shown_once(self, browser: Client) -> None:
        made = browser.post(TOKENS, {"name": "nightly <report>", "days": "7"})
        page = made.content.decode()
        found = re.search(r'id="new-token" value="([0-9a-f]{64})"', page)
        assert found
        key = found[1]
        assert made["Cache-Control"] == "no-store"
        assert "nightly &lt;report&gt;" in page
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Token {key}")
        assert client.get("/agents").status_code == 200
        later = browser.get(TOKENS).content.decode()
        assert key not in later
        assert "nightly &lt;report&gt;" in later
        assert f"{key[:8]}…" in later

    @pytest.mark.parametrize(
        ("form", "field"),
        [({"name": "", "days": "7"}, "name"), ({"name": "x" * 101, "days": "7"}, "name"),
         ({"name": "x", "days": "8"}, "days"), ({"name": "x"}, "days"),
         ({"name": "x", "days": "y"}, "days"), ({"name": "\0", "days": "7"}, "name")],
    )  # fmt: skip
    def test_a_wrong_form_says_so_beside_the_field(
        self, browser: Client, form: dict[str, str], field: str
    ) -> None:
        answer = browser.post(TOKENS, form)
        assert answer.status_code == 400
        assert f'id="token-{field}-error"' in answer.content.decode()
        assert not ApiToken.objects.exists()

    def test_too_many_say_so(
        self, browser: Client, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "MOST_PER_USER", 1)
        tokens.create(alice, name="x")
        answer = browser.post(TOKENS, {"name": "y", "days": "7"})
        assert "Revoke one that you don&#x27;t need" in answer.content.decode()

    def test_no_choice_is_longer_than_the_setting(self, browser: Client, settings: Any) -> None:
        settings.RUNS = {**settings.RUNS, "API_TOKEN_DAYS": 14}
        page = browser.get(TOKENS).content.decode()
        assert re.findall(r'<option value="(\d+)"', page) == ["1", "7", "0"]
        assert ">14 days</option>" in page
        settings.RUNS = {**settings.RUNS, "API_TOKEN_DAYS": 0}
        assert ">until it is revoked</option>" in browser.get(TOKENS).content.decode()

    def test_one_is_revoked_by_post(self, browser: Client, alice: User) -> None:
        key, token = tokens.create(alice)
        address = f"{TOKENS}{token.pk}/revoke"
        assert browser.get(address).status_code == 405
        assert browser.post(address)["Location"] == TOKENS
        assert "The token is revoked." in browser.get(TOKENS).content.decode()
        assert tokens.find(key) is None
        assert browser.post(address).status_code == 404

    def test_those_of_others_are_neither_shown_nor_revoked(self, browser: Client) -> None:
        key, token = tokens.create(User.objects.create_user("bob"), name="bob's")
        assert "bob" not in browser.get(TOKENS).content.decode()
        assert browser.post(f"{TOKENS}{token.pk}/revoke").status_code == 404
        assert tokens.find(key) is not None


class TestPassword:
    def change(self, browser: Client, **more: str) -> Any:
        form = {"old_password": OLD, "new_password1": NEW, "new_password2": NEW, **more}
        return browser.post(PASSWORD, form)

    def test_other_sessions_and_tokens_end_with_the_old_one(
        self, browser: Client, alice: User
    ) -> None:
        other = Client()
        other.force_login(alice)
        key, _ = tokens.create(alice)
        assert self.change(browser)["Location"] == "/app/"
        assert "Your password is changed." in browser.get("/app/").content.decode()
        assert "Your password is changed." not in browser.get("/app/").content.decode()
        assert other.get("/app/").status_code == 302
        assert tokens.find(key) is None
        alice.refresh_from_db()
        assert alice.check_password(NEW)

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [({"old_password": "x"}, "old_password"), ({"new_password2": "x"}, "new_password2"),
         ({"new_password1": "12345", "new_password2": "12345"}, "new_password2")],
    )  # fmt: skip
    def test_what_is_wrong_is_said_beside_its_field(
        self, browser: Client, alice: User, wrong: dict[str, str], field: str
    ) -> None:
        answer = self.change(browser, **wrong)
        assert answer.status_code == 200
        assert f'id="id_{field}-error"' in answer.content.decode()
        assert NEW not in answer.content.decode()
        alice.refresh_from_db()
        assert alice.check_password(OLD)

    def test_password_managers_find_the_fields(self, browser: Client) -> None:
        page = browser.get(PASSWORD).content.decode()
        assert re.search(r'name="old_password"[^>]* autocomplete="current-password"', page)
        assert len(re.findall(r'autocomplete="new-password"', page)) == 2
        assert 'name="username" value="alice" autocomplete="username"' in page
