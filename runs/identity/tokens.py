"""API tokens: make, find and revoke them. The key itself is returned once, and stored nowhere.

A token is good for as long as its row is there, its time is not over, its user is active, and the
user's password is the one with which the token was made. ``find`` compares all of that at each
request, so no code that changes a password needs to know about tokens.

Tokens of ``rest_framework.authtoken``, which has the keys in its table as they are, belong to the
site: they are left alone. With ``RUNS["DRF_TOKENS"]`` they are ours, from a release that had no own
ones: a migration turns them into rows of ours, and rows that other code adds later are honoured
until the next release.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from django.apps import apps
from django.db import DatabaseError
from django.db.models import F, Manager, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from runs.conf import conf
from runs.db.alias import atomic
from runs.db.users import username_of

from . import audit
from .actors import Actor
from .models import Act, ApiToken

if TYPE_CHECKING:
    from django.contrib.auth.models import User

__all__ = [
    "MOST_PER_USER",
    "Found",
    "TooManyTokens",
    "create",
    "end_all_of",
    "find",
    "keep_through_rehash",
    "live_of",
    "note_use",
    "remove",
    "revoke",
    "why_refused",
]

logger = logging.getLogger(__name__)

#: The user has another password, its time is over, or the user is not active.
WhyRefused = Literal["password", "expired", "inactive"]

MOST_PER_USER = 100
_USE_NOTED_EVERY = timedelta(minutes=1)
_HINT_LENGTH = 8  # of 64: the other 224 bits are beyond guessing
_UNHASHED_LENGTH = 40  # of a key of rest_framework.authtoken


class TooManyTokens(Exception):
    """The user has as many named tokens as a user may have."""


@dataclass(frozen=True, slots=True)
class Found:
    """The proof of a request that came with a token.

    Attributes:
        key: as the client sent it, to look it up again later.
        token: None for one of ``rest_framework.authtoken``.
    """

    user: User
    key: str = field(repr=False)
    token: ApiToken | None


def create(
    user: User, *, name: str = "", seconds: float | None = None, by: Actor | None = None
) -> tuple[str, ApiToken]:
    """Make a token; return its key, which can't be read again, and its row.

    It lasts for ``seconds``; for ``API_TOKEN_DAYS`` by default, and at most. Of a user's tokens
    without a name only the newest and those in use are kept: a program may ask for a new one each
    time it starts.

    Raises:
        TooManyTokens: the user has ``MOST_PER_USER`` tokens with a name.
    """
    now = timezone.now()
    key = secrets.token_hex(32)
    with atomic():
        _make_room(user, now)
        token = ApiToken.objects.create(
            user=user,
            name=name,
            digest=_digest_of(key),
            hint=key[:_HINT_LENGTH],
            password_mark=_password_mark(user),
            created_at=now,
            expires_at=_expiry(now, seconds),
        )
        audit.note(Act.TOKEN_CREATED, subject=_subject(token, user), by=by)
    return key, token


def find(key: str) -> Found | None:
    """Return whom a key stands for, by one query; None if it stands for no active user."""
    if len(key) == _UNHASHED_LENGTH and (unhashed := _find_unhashed(key)) is not None:
        return unhashed
    digest = _digest_of(key)
    token = ApiToken.objects.select_related("user").filter(digest=digest).first()
    if token is None:
        return None
    is_good = hmac.compare_digest(token.digest, digest) and why_refused(token) is None
    return Found(token.user, key, token) if is_good else None


def why_refused(token: ApiToken) -> WhyRefused | None:
    """Return why a token that is in the table is no good; None if it is good."""
    if not hmac.compare_digest(token.password_mark, _password_mark(token.user)):
        return "password"
    if token.expires_at is not None and token.expires_at <= timezone.now():
        return "expired"
    return None if token.user.is_active else "inactive"


def live_of(user: User) -> QuerySet[ApiToken]:
    """Return the tokens of a user that are good, the newest first."""
    return ApiToken.objects.filter(user=user).exclude(_is_over(user, timezone.now()))


def revoke(user: User, id: uuid.UUID) -> bool:
    """End a token of ``user``; return whether there was one. Its live feeds end within seconds."""
    token = live_of(user).select_related("user").filter(pk=id).first()
    return token is not None and remove(token)


def remove(token: ApiToken) -> bool:
    """End a token, of whichever user; return whether it was still there."""
    with atomic():
        # The second of two that revoke it at once finds nothing, and writes no second entry.
        count, _ = ApiToken.objects.filter(pk=token.pk).delete()
        if count:
            audit.note(Act.TOKEN_REVOKED, subject=_subject(token, token.user))
    return count > 0


def end_all_of(user: User) -> int:
    """Remove the tokens of a user whose password has changed, which are no good any more."""
    unhashed = 0
    if (plain := _unhashed()) is not None:
        unhashed, _ = plain.filter(user=user).delete()
    ended, _ = (
        ApiToken.objects.filter(user=user).exclude(password_mark=_password_mark(user)).delete()
    )
    return unhashed + ended


def keep_through_rehash(user: User, before: str) -> None:
    """Keep the tokens of a user whose unchanged password got a better hash at a sign-in.

    ``before`` is the hash until then. Django does this after an upgrade of Django.
    """
    old, new = _mark(before), _password_mark(user)
    ApiToken.objects.filter(user=user, password_mark=old).update(password_mark=new)


def note_use(token: ApiToken, address: str) -> None:
    """Write that a token was used, once a minute at most. Not while a client waits for a stop."""
    now = timezone.now()
    if token.last_used_at is not None and token.last_used_at > now - _USE_NOTED_EVERY:
        return
    is_due = Q(last_used_at=None) | Q(last_used_at__lt=now - _USE_NOTED_EVERY)
    try:
        ApiToken.objects.filter(is_due, pk=token.pk).update(last_used_at=now, last_address=address)
    except DatabaseError as error:  # the client has its answer
        logger.warning("the use of a token was not recorded (%s)", type(error).__name__)


def _digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _password_mark(user: User) -> str:
    """Return what changes with a user's password, and does not depend on SECRET_KEY."""
    return _mark(getattr(user, "password", "") or "")


def _mark(password: str) -> str:
    return hashlib.sha256(f"runs.identity.tokens:{password}".encode()).hexdigest()


def _expiry(now: datetime, seconds: float | None) -> datetime | None:
    longest = conf().api_token_days * 24 * 60 * 60 or None
    wanted = min((s for s in (seconds, longest) if s is not None), default=None)
    return None if wanted is None else now + timedelta(seconds=wanted)


def _is_over(user: User, now: datetime) -> Q:
    return Q(expires_at__lte=now) | ~Q(password_mark=_password_mark(user))


def _make_room(user: User, now: datetime) -> None:
    """Remove the tokens of ``user`` that are over, and the longest unused one if there are many."""
    own = ApiToken.objects.filter(user=user)
    own.filter(_is_over(user, now)).delete()
    if own.count() < MOST_PER_USER:
        return
    used = own.filter(name="").order_by(Coalesce(F("last_used_at"), F("created_at")))
    oldest = used.first()
    if oldest is None:
        raise TooManyTokens
    oldest.delete()


def _subject(token: ApiToken, user: User) -> str:
    name = f" ({token.name})" if token.name else ""
    return f"{token.hint}...{name} of {username_of(user)}"


def _unhashed() -> Manager | None:
    """Return the tokens of ``rest_framework.authtoken``, if they are there and ours."""
    if not (conf().drf_tokens and apps.is_installed("rest_framework.authtoken")):
        return None
    return apps.get_model("authtoken", "Token")._default_manager


def _find_unhashed(key: str) -> Found | None:
    """Find a token of ``rest_framework.authtoken``. This goes with the next release."""
    plain = _unhashed()
    found = plain.select_related("user").filter(key=key).first() if plain is not None else None
    if found is None or not found.user.is_active:
        return None
    return Found(found.user, key, None)
