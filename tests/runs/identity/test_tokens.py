"""API tokens: hashed, several for a user, and ended with everything that should end them."""

from __future__ import annotations

import uuid
from datetime import timedelta
from importlib import import_module
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient, APIRequestFactory

from runs.identity import tokens
from runs.identity.models import ApiToken, AuditEntry
from runs.web.api.stop_views import StopView
from runs.web.feed.rights import identify

pytestmark = pytest.mark.django_db

CREDENTIALS = {"username": "alice", "password": "alice's password"}


def client(key: str) -> APIClient:
    made = APIClient()
    made.credentials(HTTP_AUTHORIZATION=f"Token {key}")
    return made


def works(key: str) -> bool:
    status = client(key).get("/agents").status_code
    assert status in (200, 401)
    assert (identify(token=key) is not None) == (status == 200), "sockets ask the same"
    return status == 200


class TestMaking:
    def test_the_key_is_stored_nowhere(self, alice: User) -> None:
        answer = APIClient().post("/api-token", CREDENTIALS)
        assert answer.json().keys() == {"token"}
        key = answer.json()["token"]
        assert works(key)
        with connection.cursor() as cursor:
            for table in connection.introspection.table_names():
                cursor.execute(f'SELECT * FROM "{table}"')
                assert key not in repr(cursor.fetchall()), table

    def test_each_password_buys_another_one_with_a_name_and_an_end(self, alice: User) -> None:
        body = {**CREDENTIALS, "name": "nightly", "expires_seconds": 60}
        keys = {APIClient().post("/api-token", body).json()["token"] for _ in range(2)}
        assert len(keys) == 2
        for token in ApiToken.objects.filter(user=alice):
            assert token.name == "nightly"
            assert token.expires_at is not None
            assert token.expires_at - token.created_at == timedelta(seconds=60)

    @pytest.mark.parametrize(
        "wrong",
        [{"name": "x" * 101}, {"name": 5}, {"name": "a\0"}, {"expires_seconds": 0},
         {"expires_seconds": -1}, {"expires_seconds": 1.5}, {"expires_seconds": "60"},
         {"expires_seconds": True}, {"expires_seconds": 10**12}],
    )  # fmt: skip
    def test_a_wrong_name_or_end_is_400(self, alice: User, wrong: dict[str, Any]) -> None:
        answer = APIClient().post("/api-token", {**CREDENTIALS, **wrong})
        assert answer.status_code == 400
        assert answer.json()["fields"].keys() == wrong.keys()
        assert not ApiToken.objects.exists()

    def test_the_setting_is_the_default_and_the_longest_time(
        self, alice: User, settings: Any
    ) -> None:
        settings.RUNS = {**settings.RUNS, "API_TOKEN_DAYS": 2}
        for seconds in (None, 10**9):
            _, token = tokens.create(alice, seconds=seconds)
            assert token.expires_at == token.created_at + timedelta(days=2)
        settings.RUNS = {**settings.RUNS, "API_TOKEN_DAYS": 0}
        assert tokens.create(alice)[1].expires_at is None

    def test_many_without_a_name_push_the_longest_unused_one_out(
        self, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "MOST_PER_USER", 3)
        bobs, _ = tokens.create(bob)
        named, _ = tokens.create(alice, name="kept")
        used, token = tokens.create(alice)
        unused, _ = tokens.create(alice)
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=timezone.now())
        newest, _ = tokens.create(alice)
        assert [works(key) for key in (bobs, named, used, unused, newest)] == [
            True, True, True, False, True,
        ]  # fmt: skip

    def test_too_many_with_a_name_are_refused(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens, "MOST_PER_USER", 2)
        keys = [tokens.create(alice, name="x")[0] for _ in range(2)]
        answer = APIClient().post("/api-token", CREDENTIALS)
        assert (answer.status_code, answer.json()["fields"].keys()) == (400, {"name"})
        assert all(works(key) for key in keys)


class TestItsEnd:
    def test_when_its_time_is_over(self, alice: User) -> None:
        key, token = tokens.create(alice, seconds=60)
        assert works(key)
        ApiToken.objects.filter(pk=token.pk).update(expires_at=timezone.now())
        assert not works(key)

    @pytest.mark.parametrize("how", ["form", "admin", "save", "update", "unusable"])
    def test_with_the_password_however_it_changes(self, alice: User, bob: User, how: str) -> None:
        bobs, _ = tokens.create(bob)
        key, _ = tokens.create(alice)
        unhashed = Token.objects.create(user=alice).key
        assert works(key)
        assert works(unhashed)
        new = "another password for alice"
        if how == "form":
            browser = APIClient()
            browser.force_login(alice)
            form = {"old_password": CREDENTIALS["password"], "new_password1": new}
            form["new_password2"] = new
            answer = browser.post("/accounts/password_change/", form, format="multipart")
            assert answer.status_code == 302, answer.content
        elif how == "admin":
            browser = APIClient()
            browser.force_login(User.objects.create_superuser("root"))
            form = {"password1": new, "password2": new, "usable_password": "true"}
            address = f"/admin/auth/user/{alice.pk}/password/"
            assert browser.post(address, form, format="multipart").status_code == 302
        elif how == "update":
            User.objects.filter(pk=alice.pk).update(password="md5$x$y")
        else:
            alice.set_password(new if how == "save" else None)
            alice.save()
        assert not works(key)
        assert works(bobs)
        # update() sends no signal, so only the tokens that know their password end.
        assert works(unhashed) == (how == "update")

    def test_not_with_a_better_hash_of_the_same_password(self, alice: User, settings: Any) -> None:
        key, _ = tokens.create(alice)
        settings.PASSWORD_HASHERS = [
            "django.contrib.auth.hashers.ScryptPasswordHasher", *settings.PASSWORD_HASHERS,
        ]  # fmt: skip
        before = alice.password
        assert APIClient().post("/api-token", CREDENTIALS).status_code == 200
        alice.refresh_from_db()
        assert alice.password != before
        assert works(key)

    def test_with_the_user(self, alice: User) -> None:
        key, _ = tokens.create(alice)
        User.objects.filter(pk=alice.pk).update(is_active=False)
        assert not works(key)
        User.objects.filter(pk=alice.pk).update(is_active=True)
        assert works(key)
        alice.delete()
        assert not works(key)

    @pytest.mark.parametrize("key", ["", "0" * 64, "0" * 40, "a" * 5000, "\0" * 64, "ä" * 64])
    def test_what_is_no_token_is_401(self, alice: User, key: str) -> None:
        headers = {"HTTP_AUTHORIZATION": f"Token {key}".encode().decode("latin-1")}
        assert APIClient().get("/agents", **headers).status_code == 401

    def test_the_digest_itself_is_no_key(self, alice: User) -> None:
        _, token = tokens.create(alice)
        assert not works(token.digest)


class TestUse:
    def test_costs_one_query(self, alice: User) -> None:
        key, _ = tokens.create(alice)
        with CaptureQueriesContext(connection) as queries:
            found = tokens.find(key)
        assert len(queries) == 1
        assert found is not None
        assert key not in repr(found), "it may come into a log"

    def test_is_noted_once_a_minute_with_the_address(self, alice: User) -> None:
        key, token = tokens.create(alice)
        for address in ("192.0.2.1", "192.0.2.2"):
            client(key).get("/agents", REMOTE_ADDR=address)
        token.refresh_from_db()
        assert token.last_address == "192.0.2.1"
        ApiToken.objects.update(last_used_at=timezone.now() - timedelta(seconds=61))
        client(key).get("/agents", REMOTE_ADDR="192.0.2.2")
        token.refresh_from_db()
        assert token.last_address == "192.0.2.2"
        assert token.last_used_at is not None
        assert timezone.now() - token.last_used_at < timedelta(seconds=30)

    @pytest.mark.django_db(transaction=True)  # the end of a request closes the connection
    def test_is_noted_after_the_answer(self, alice: User) -> None:
        key, token = tokens.create(alice)
        request = APIRequestFactory().post("/", HTTP_AUTHORIZATION=f"Token {key}")
        answer = StopView.as_view()(request, id=str(uuid.uuid4()))
        assert answer.status_code == 404
        token.refresh_from_db()
        assert token.last_used_at is None, "the client of a stop would have waited for it"
        answer.close()
        token.refresh_from_db()
        assert token.last_used_at is not None


class TestTheirList:
    def test_shows_one_s_own_good_ones_without_the_keys(self, alice: User, bob: User) -> None:
        tokens.create(bob, name="bob's")
        key, mine = tokens.create(alice, name="mine")
        _, over = tokens.create(alice, name="over")
        ApiToken.objects.filter(pk=over.pk).update(expires_at=timezone.now())
        answer = client(key).get("/api-tokens")
        (one,) = answer.json()["results"]
        assert (one["id"], one["name"], one["begins_with"], one["is_current"]) == (
            str(mine.pk), "mine", key[:8], True,
        )  # fmt: skip
        assert key not in answer.content.decode()
        assert mine.digest not in answer.content.decode()

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_one_is_revoked_once(self, alice: User, slash: str) -> None:
        key, token = tokens.create(alice)
        other, _ = tokens.create(alice)
        address = f"/api-tokens/{token.pk}{slash}"
        assert client(other).delete(address).status_code == 204
        assert not works(key)
        assert client(other).delete(address).status_code == 404
        assert AuditEntry.objects.filter(act="token_revoked").count() == 1

    def test_one_may_revoke_itself(self, alice: User) -> None:
        key, token = tokens.create(alice)
        assert client(key).delete(f"/api-tokens/{token.pk}").status_code == 204
        assert not works(key)

    def test_those_of_others_do_not_exist(self, alice: User, bob: User) -> None:
        key, token = tokens.create(alice)
        root = User.objects.create_superuser("root")
        for user in (bob, root):
            stranger = client(tokens.create(user)[0])
            assert stranger.delete(f"/api-tokens/{token.pk}").status_code == 404
        assert works(key)
        assert client(key).delete("/api-tokens/nonsense").status_code == 404

    def test_strangers_see_none(self, alice: User) -> None:
        assert APIClient().get("/api-tokens").status_code == 401
        assert APIClient().delete(f"/api-tokens/{uuid.uuid4()}").status_code == 401


def _migrate() -> None:
    migration = import_module("runs.identity.migrations.0002_hash_tokens")
    migration.hash_tokens(apps, SimpleNamespace(connection=connection))


class TestTokensOfBefore:
    def test_the_migration_keeps_their_keys_good_and_stores_them_nowhere(self, alice: User) -> None:
        key = Token.objects.create(user=alice).key
        _migrate()
        assert not Token.objects.exists()
        assert works(key)
        alice.set_password("another")
        alice.save()
        assert not works(key)

    def test_other_code_may_still_make_them(self, alice: User) -> None:
        token = Token.objects.create(user=alice)
        assert works(token.key)
        token.delete()
        assert not works(token.key)

    def test_a_site_that_has_them_keeps_them_for_itself(self, alice: User, settings: Any) -> None:
        settings.RUNS = {**settings.RUNS, "DRF_TOKENS": False}
        token = Token.objects.create(user=alice)
        assert not works(token.key)
        _migrate()
        alice.set_password("another")
        alice.save()
        assert Token.objects.get() == token
        assert not ApiToken.objects.exists()

    def test_the_command_makes_one_of_ours(self, alice: User) -> None:
        out = StringIO()
        call_command("drf_create_token", "alice", "--name", "script", stdout=out)
        words = out.getvalue().split()
        assert words[:2] + words[3:] == ["Generated", "token", "for", "user", "alice"]
        assert works(words[2])
        assert ApiToken.objects.get().name == "script"
        call_command("drf_create_token", "alice", "--reset", stdout=out)
        assert not works(words[2])
        with pytest.raises(CommandError, match='no user "nobody"'):
            call_command("drf_create_token", "nobody")
