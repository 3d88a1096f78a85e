"""After wrong passwords, the next try has to wait; each time for longer.

Tries are counted for an account *and* an address together. An attacker elsewhere can therefore not
keep a user out. An attacker at the user's own address can, for five minutes at most after the last
try that was let in: a refused try counts for nothing.

A try counts as wrong from its beginning, until it succeeds. So tries at the same moment don't slip
through together. The cache counts: with Redis for all processes, otherwise for each one alone.
While the cache is away nothing is counted.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from django.core.cache import cache

from runs.exceptions import SignInRefused

__all__ = ["FREE_TRIES", "LONGEST_SECONDS", "Attempt", "begin"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

FREE_TRIES = 5
LONGEST_SECONDS = 300
_FORGOTTEN_AFTER_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to sign in, which was let in."""

    _count_key: str
    _until_key: str

    def succeed(self) -> None:
        """Forget the wrong passwords before this one."""
        _ask(lambda: cache.delete_many([self._count_key, self._until_key]), None)

    def forget(self) -> None:
        """Count this try for nothing: no password was checked."""
        _ask(lambda: cache.decr(self._count_key), 0)
        _ask(lambda: cache.delete(self._until_key), False)


def begin(account: str, address: str) -> Attempt:
    """Let a try in.

    Raises:
        SignInRefused: too many wrong passwords came before.
    """
    digest = hashlib.sha256(f"{account}\0{_network(address)}".encode()).hexdigest()
    attempt = Attempt(f"sign-in:{digest}:count", f"sign-in:{digest}:until")
    _ask(lambda: _admit(attempt), None)
    return attempt


def _admit(attempt: Attempt) -> None:
    now = time.time()
    until = cache.get(attempt._until_key)
    if until is not None and until > now:
        raise SignInRefused(until - now)
    cache.add(attempt._count_key, 0, _FORGOTTEN_AFTER_SECONDS)
    count = cache.incr(attempt._count_key)
    cache.touch(attempt._count_key, _FORGOTTEN_AFTER_SECONDS)
    wait = _pause(count)
    # add() lets one of several tries at the same moment through.
    if wait and not cache.add(attempt._until_key, now + wait, wait):
        raise SignInRefused(wait)


def _pause(count: int) -> int:
    """Return for how many seconds the next try is refused: 0, then 1, 2, 4, ... 300."""
    if count < FREE_TRIES:
        return 0
    return int(min(LONGEST_SECONDS, 2 ** min(count - FREE_TRIES, 30)))


def _network(address: str) -> str:
    """Return an address as it is counted: of IPv6 a client has a whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _ask(question: Callable[[], T], otherwise: T) -> T:
    try:
        return question()
    except SignInRefused:
        raise
    except Exception as error:  # each cache has errors of its own
        logger.warning("sign-ins are not counted, the cache is away (%s)", type(error).__name__)
        return otherwise
