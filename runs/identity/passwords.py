"""Check passwords without making other requests wait.

A password's hash takes a good part of a second of a processor. It is computed without a database
connection, a few at a time in each process; the others wait their turn, for ``PATIENCE_SECONDS`` at
most. The hashers do this, so it holds for every form that checks or sets a password.

``runs.asgi.handler`` keeps the sign-ins that wait from taking a thread each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model, hashers
from django.contrib.auth.backends import ModelBackend
from django.http import HttpRequest

from runs.db.lending import release_connection
from runs.exceptions import SignInRefused

from . import actors, audit, backoff, tokens
from .actors import Actor

__all__ = [
    "AT_ONCE",
    "Argon2Hasher",
    "BCryptHasher",
    "PBKDF2Hasher",
    "PBKDF2SHA1Hasher",
    "PasswordBackend",
    "ScryptHasher",
    "hashing",
]

#: Half of the processors: the other half answers stops.
AT_ONCE = max(1, (os.cpu_count() or 2) // 2)
#: Below the time after which PostgreSQL ends an idle transaction: the admin's forms hold one.
PATIENCE_SECONDS = 2.0

_free = threading.BoundedSemaphore(AT_ONCE)
_here = threading.local()


@contextmanager
def hashing() -> Iterator[None]:
    """Compute a slow hash in this block: without a connection, and not beside too many others.

    Raises:
        SignInRefused: too many are being computed, or wait.
    """
    if getattr(_here, "is_hashing", False):  # verify() calls encode()
        yield
        return
    release_connection()
    if not _free.acquire(timeout=PATIENCE_SECONDS):
        raise SignInRefused(1)
    _here.is_hashing = True
    try:
        yield
    finally:
        _here.is_hashing = False
        _free.release()


class _Patient(hashers.BasePasswordHasher):
    """Added to Django's hashers. Their stored hashes stay valid: the algorithms are the same."""

    def encode(self, *arguments: Any, **rest: Any) -> Any:
        with hashing():
            return super().encode(*arguments, **rest)

    def verify(self, *arguments: Any, **rest: Any) -> Any:
        with hashing():
            return super().verify(*arguments, **rest)

    def harden_runtime(self, *arguments: Any, **rest: Any) -> Any:
        with hashing():
            return super().harden_runtime(*arguments, **rest)


class PBKDF2Hasher(_Patient, hashers.PBKDF2PasswordHasher):
    pass


class PBKDF2SHA1Hasher(_Patient, hashers.PBKDF2SHA1PasswordHasher):
    pass


class Argon2Hasher(_Patient, hashers.Argon2PasswordHasher):
    pass


class BCryptHasher(_Patient, hashers.BCryptSHA256PasswordHasher):
    pass


class ScryptHasher(_Patient, hashers.ScryptPasswordHasher):
    pass


class PasswordBackend(ModelBackend):
    """Django's users and permissions; after wrong passwords the next try has to wait.

    All doors authenticate through it: ``/api-token``, the site's sign-in page and the admin's.
    """

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **more: Any,
    ) -> Any:
        """Return the active user with this name and password.

        Raises:
            SignInRefused: too many wrong passwords came, or too many sign-ins at once.
        """
        users = get_user_model()
        name = username if username is not None else more.get(users.USERNAME_FIELD)
        if name is None or password is None:
            return None
        address = actors.address_of(request)
        attempt = backoff.begin(name, address) if request is not None else None
        try:
            known, is_right = self._check(name, password)
        except SignInRefused:
            if attempt is not None:
                attempt.forget()
            raise
        if known is not None and is_right and self.user_can_authenticate(known):
            if attempt is not None:
                attempt.succeed()
            return known
        audit.note_failure(Actor(address=address) if known is None else Actor.of(known, address))
        return None

    def _check(self, name: str, password: str) -> tuple[Any, bool]:
        users = get_user_model()
        try:
            user: Any = users._default_manager.get_by_natural_key(name)
        except users.DoesNotExist:
            users().set_password(password)  # takes as long as for a user who exists
            return None, False
        before = user.password
        is_right = user.check_password(password)
        if is_right and user.password != before:
            tokens.keep_through_rehash(user, before)
        return user, is_right
