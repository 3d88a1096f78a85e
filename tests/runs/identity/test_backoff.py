"""Wrong passwords make the next try wait, at all three doors, and lock no user out for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.test import Client
from rest_framework.test import APIClient

from runs.exceptions import SignInRefused
from runs.identity import backoff

DOORS = ["/api-token", "/accounts/login/", "/admin/login/"]
HERE, ELSEWHERE = "192.0.2.7", "192.0.2.8"


class Clock:
    now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the back-off; the cache forgets nothing meanwhile."""
    made = Clock()
    monkeypatch.setattr(backoff, "time", made)
    add = cache.add

    def add_for_long(key: str, value: Any, timeout: Any = None) -> bool:
        until = cache.get(key)
        if until is not None and key.endswith("until") and until <= made.now:
            cache.delete(key)  # as the cache would have done
        return bool(add(key, value))

    monkeypatch.setattr(cache, "add", add_for_long)
    return made


def sign_in(door: str, password: str, address: str = HERE, name: str = "alice") -> Any:
    form: Any = {"username": name, "password": password}
    if door == "/api-token":
        return APIClient().post(door, form, REMOTE_ADDR=address)
    return Client().post(door, form, REMOTE_ADDR=address, headers={"accept": "text/html"})


def is_refused(answer: Any) -> bool:
    if answer.status_code == 429:
        assert int(answer["Retry-After"]) >= 1
        is_json = answer["Content-Type"] == "application/json"
        assert not is_json or answer.json()["code"] == "throttled"
        return True
    return False


@pytest.mark.django_db
@pytest.mark.parametrize("door", DOORS)
def test_after_some_wrong_passwords_the_right_one_has_to_wait(
    door: str, alice: User, clock: Clock
) -> None:
    assert not any(is_refused(sign_in(door, "wrong")) for _ in range(backoff.FREE_TRIES))
    assert is_refused(sign_in(door, "alice's password"))
    for other in DOORS:
        assert is_refused(sign_in(other, "wrong")), "all doors count together"
    clock.now += 1
    assert not is_refused(sign_in(door, "alice's password"))
    assert not any(is_refused(sign_in(door, "wrong")) for _ in range(backoff.FREE_TRIES)), (
        "the right password was not forgotten"
    )


@pytest.mark.django_db
@pytest.mark.parametrize("door", DOORS)
def test_neither_the_user_elsewhere_nor_another_user_here_waits(
    door: str, alice: User, bob: User, clock: Clock
) -> None:
    for _ in range(50):
        sign_in(door, "wrong")
    assert is_refused(sign_in(door, "alice's password"))
    assert sign_in(door, "alice's password", ELSEWHERE).status_code in (200, 302)
    assert sign_in(door, "bob's password", HERE, "bob").status_code in (200, 302)


def test_the_wait_grows_to_five_minutes_and_no_further(clock: Clock) -> None:
    waits = []
    for _ in range(backoff.FREE_TRIES - 1):
        backoff.begin("alice", HERE)
    for _ in range(12):
        backoff.begin("alice", HERE)
        with pytest.raises(SignInRefused) as refused:
            backoff.begin("alice", HERE)
        waits.append(refused.value.seconds)
        clock.now += refused.value.seconds
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_a_refused_try_makes_the_wait_no_longer(clock: Clock) -> None:
    for _ in range(backoff.FREE_TRIES):
        backoff.begin("alice", HERE)
    for _ in range(100):
        with pytest.raises(SignInRefused):
            backoff.begin("alice", HERE)
    clock.now += 1
    backoff.begin("alice", HERE)


def test_tries_at_the_same_moment_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "cache", LocMemCache("tries", {}))  # no connection for each thread

    def attempt(_: int) -> bool:
        try:
            backoff.begin("alice", HERE)
        except SignInRefused:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(200))) == backoff.FREE_TRIES


def test_of_ipv6_a_network_counts_as_one_client() -> None:
    for number in range(backoff.FREE_TRIES):
        backoff.begin("alice", f"2001:db8::{number:x}")
    with pytest.raises(SignInRefused):
        backoff.begin("alice", "2001:db8::ffff")
    backoff.begin("alice", "2001:db8:0:1::1")


def test_without_the_cache_all_may_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any, **rest: Any) -> None:
        raise ConnectionError("no cache")

    for name in ("get", "add", "incr", "delete_many"):
        monkeypatch.setattr(cache, name, away)
    for _ in range(20):
        backoff.begin("alice", HERE).succeed()


@pytest.mark.django_db
def test_a_try_that_was_not_checked_counts_for_nothing(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        raise SignInRefused(1)

    monkeypatch.setattr("runs.identity.passwords.PasswordBackend._check", busy)
    for _ in range(20):
        assert is_refused(sign_in("/api-token", "alice's password"))
    monkeypatch.undo()
    assert sign_in("/api-token", "alice's password").status_code == 200


@pytest.mark.django_db
def test_a_stolen_session_may_not_guess_the_password(alice: User, clock: Clock) -> None:
    browser = Client(REMOTE_ADDR=HERE)
    browser.force_login(alice)
    form = {"old_password": "wrong", "new_password1": "x", "new_password2": "x"}
    address = "/accounts/password_change/"
    statuses = [browser.post(address, form).status_code for _ in range(backoff.FREE_TRIES + 1)]
    assert statuses == [200] * backoff.FREE_TRIES + [429]
