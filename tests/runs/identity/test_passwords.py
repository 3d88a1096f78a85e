"""Passwords are hashed a few at a time, and without a database connection."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.contrib.auth import hashers
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.models import User
from django.db import connection

from project.settings import PASSWORD_HASHERS
from runs.exceptions import SignInRefused
from runs.identity import passwords
from runs.identity.admission import Admission


@pytest.fixture
def real_hashers(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PASSWORD_HASHERS = PASSWORD_HASHERS
    monkeypatch.setattr(hashers.PBKDF2PasswordHasher, "iterations", 10)


@pytest.mark.django_db(transaction=True)
def test_no_connection_is_held_meanwhile(
    real_hashers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    original = hashers.PBKDF2PasswordHasher.encode

    def encode(*arguments: Any, **rest: Any) -> str:
        held.append(connection.connection is not None)
        return original(*arguments, **rest)

    monkeypatch.setattr(hashers.PBKDF2PasswordHasher, "encode", encode)
    User.objects.count()
    user = User.objects.create_user("alice", password="pw")
    assert User.objects.get(pk=user.pk).check_password("pw")
    assert passwords.PasswordBackend().authenticate(None, "nobody", "pw") is None
    assert held
    assert not any(held)


def test_hashes_of_before_stay_good_and_new_ones_are_django_s(
    real_hashers: None, settings: Any
) -> None:
    ours = make_password("pw")
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    assert check_password("pw", ours)
    djangos = make_password("pw")
    settings.PASSWORD_HASHERS = PASSWORD_HASHERS
    assert check_password("pw", djangos)
    assert not check_password("other", djangos)


def test_a_few_at_a_time_and_the_others_are_refused_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passwords, "PATIENCE_SECONDS", 0.05)
    inside, leave = threading.Semaphore(0), threading.Event()

    def hash_until_told() -> None:
        with passwords.hashing(), passwords.hashing():  # verify() calls encode()
            inside.release()
            leave.wait(10)

    threads = [threading.Thread(target=hash_until_told) for _ in range(passwords.AT_ONCE)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert inside.acquire(timeout=10)
        with pytest.raises(SignInRefused), passwords.hashing():
            pass
    finally:
        leave.set()
        for thread in threads:
            thread.join(10)
    with passwords.hashing():
        pass


class TestAdmission:
    async def test_lets_a_few_in_and_the_others_in_their_order(self) -> None:
        admission = Admission(2)
        order: list[int] = []
        gates = [asyncio.Event() for _ in range(5)]

        async def one(number: int) -> None:
            async with admission.admitted():
                order.append(number)
                await gates[number].wait()

        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await _settle()
        assert order == [0, 1]
        for number in range(5):
            gates[number].set()
            await _settle()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]

    async def test_one_address_does_not_take_the_whole_queue(self) -> None:
        admission = Admission(1, most_waiting=4, most_of_one=2)
        async with admission.admitted("a"):
            waiting = [asyncio.create_task(_pass(admission, "a")) for _ in range(2)]
            await _settle()
            with pytest.raises(SignInRefused):
                admission.refuse_if_full("a")
            with pytest.raises(SignInRefused):
                await _pass(admission, "a")
            waiting += [asyncio.create_task(_pass(admission, who)) for who in ("b", "c")]
            await _settle()
            with pytest.raises(SignInRefused):
                await _pass(admission, "d")
        await asyncio.gather(*waiting)
        await _pass(admission, "a")

    async def test_gives_up_after_a_while(self) -> None:
        admission = Admission(1, patience_seconds=0.02)
        async with admission.admitted():
            with pytest.raises(SignInRefused):
                await _pass(admission)
        await _pass(admission)

    @pytest.mark.parametrize("leaves_first", [True, False])
    async def test_a_place_given_to_one_who_leaves_goes_to_the_next(
        self, leaves_first: bool
    ) -> None:
        admission = Admission(1, most_of_one=2)
        holder = asyncio.Event()

        async def hold() -> None:
            async with admission.admitted("a"):
                await holder.wait()

        holding = asyncio.create_task(hold())
        await _settle()
        leaver, follower = (asyncio.create_task(_pass(admission, "a")) for _ in range(2))
        await _settle()
        if leaves_first:
            leaver.cancel()
            holder.set()
        else:
            holder.set()
            await asyncio.sleep(0)  # the holder has left, and the place is given to the leaver
            leaver.cancel()
        await asyncio.wait_for(follower, 5)
        await asyncio.gather(holding, leaver, return_exceptions=True)
        await asyncio.wait_for(_pass(admission, "a"), 5)


async def _pass(admission: Admission, address: str = "") -> None:
    async with admission.admitted(address):
        pass


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
