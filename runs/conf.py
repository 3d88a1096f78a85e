"""The options of runs, typed, with their defaults.

``settings.RUNS`` holds them under upper-case names (``LEASE_SECONDS``). A missing option has the
default below. ``conf()`` follows ``override_settings``, so never keep its answer for long.
A wrong value is a system check (checks.py), which reads the types below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any

from django.conf import settings
from django.core.signals import setting_changed
from pydantic import Field

from agents.options import LONGEST_SECONDS
from agents.process.jobs import MAX_THREADS, MAX_THREADS_PER_RUN
from agents.tools.llm import options as llm_options
from agents.values.addresses import AllowList, Reach

__all__ = [
    "PUBLISHED_KEY",
    "HTTPOptions",
    "LLMOptions",
    "LeaseTimes",
    "Options",
    "conf",
    "override",
    "unknown_names",
]


#: How the key of a checkout without DJANGO_SECRET_KEY begins: outside debug mode no process serves
#: with it. (Of a site's own insecure key Django warns.)
PUBLISHED_KEY = "django-insecure-not-secret"

_Positive = Annotated[int, Field(ge=1)]
_Limit = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# A lease is renewed every third of it; below a second the renewals crowd out the work.
_LeaseSeconds = Annotated[float, Field(ge=1, allow_inf_nan=False)]
_QueueSeconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS)]
_Days = Annotated[float, Field(ge=0, le=36_500)]
_Rate = Annotated[str, Field(pattern=r"^\d+/[smhd]")]


@dataclass(frozen=True, slots=True)
class LLMOptions:
    """Where ``call_llm`` goes. Empty strings mean: not set."""

    base_url: str = ""  # with its /v1
    api_key: str = field(default="", repr=False)
    model: str = ""  # used when a call names none
    proxy_url: str = field(default="", repr=False)  # it may have a password

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield an option that can't work: its name, and what is wrong, without its value."""
        for name, problem_of in (
            ("base_url", llm_options.address_problem),
            ("api_key", llm_options.key_problem),
            ("model", llm_options.name_problem),
            ("proxy_url", llm_options.proxy_problem),
        ):
            value: object = getattr(self, name)
            problem = problem_of(value) if isinstance(value, str) else "is not a text"
            if problem:
                yield name, problem
                return
        if problem := llm_options.pair_problem(self.base_url, self.api_key):
            yield "base_url", problem

    @property
    def is_stand_in(self) -> bool:
        """Neither an address nor a key: the built-in stand-in answers."""
        return not self.base_url and not self.api_key


@dataclass(frozen=True, slots=True)
class HTTPOptions:
    """Where ``tools.http`` goes."""

    allow: Sequence[str] = ()  # besides public addresses: hosts, addresses, networks, or "*"
    proxy_url: str = field(default="", repr=False)  # it may hold a password

    @property
    def reach(self) -> Reach:
        return _reach(tuple(self.allow), self.proxy_url)


@cache
def _reach(allow: tuple[str, ...], proxy_url: str) -> Reach:
    return Reach(AllowList(allow), proxy_url)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """The timeouts of a worker: each is a share of its lease, so that one setting moves them all.

    The server also ends a transaction that is idle for ``renew_every`` (project/settings.py).
    """

    seconds: float

    @property
    def renew_every(self) -> float:
        """Two renewals in a row may fail before the lease is over."""
        return self.seconds / 3

    @property
    def reap_every(self) -> float:
        """How often a process looks for leases that are over."""
        return self.seconds / 3

    @property
    def recover_within(self) -> float:
        """For how long the runs of lost workers are dealt with at a time, between two renewals."""
        return self.seconds / 6

    @property
    def claim_within(self) -> float:
        """For how long after a renewal a worker claims runs; the claim compares the same."""
        return self.seconds / 2

    @property
    def own_seconds(self) -> float:
        """For how long after a renewal a worker's own runs may continue: less than others wait."""
        return self.seconds - min(2.0, self.seconds / 5)


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that can be set about runs."""

    embedded_worker: bool = True  # the web process runs agents too
    max_concurrent: _Positive = 1000  # claimed runs per process
    max_threads: _Positive = MAX_THREADS  # of agents' jobs per process
    max_threads_per_run: _Positive = MAX_THREADS_PER_RUN
    max_per_owner: _Limit = 0  # claimed runs of one owner, wherever they run; 0 is no limit
    max_queued_per_owner: _Limit = 10_000  # runs that wait; 0 is no limit, here and below
    max_stored_bytes_per_owner: _Limit = 20 * 1024**3  # inputs, results, logs, data store
    max_data_store_keys_per_owner: _Limit = 1_000_000
    max_feeds_per_owner: _Limit = 400  # sockets and streams of one user in one process
    max_waiters_per_owner: _Limit = 1000  # the same of requests that wait for the end of a run
    queue_seconds: _QueueSeconds = 0.0  # how long a run may wait for its start; 0 is no limit
    deadline_seconds: _QueueSeconds = 0.0  # how long a run may take at most; 0 is no limit
    keep_days: _Days = 0.0  # runs that ended longer ago are removed; 0 is for ever
    keep_logs_days: _Days = 0.0  # the same of logs alone
    worker_listen: str = "127.0.0.1:0"  # where a worker process serves its health
    lease_seconds: _LeaseSeconds = 15.0  # see LeaseTimes
    drain_seconds: _Seconds = 20.0  # how long runs may continue after SIGTERM
    # A worker process whose agents' loop is blocked by abandoned code for so long drains and ends,
    # and its supervisor starts another one; 0 is never.
    replace_when_blocked_seconds: _Seconds = 0.0
    max_input_bytes: _Positive = 8 * 1024 * 1024
    guard_everything: bool = False  # see agents.guard_everything
    stop_inactive_owners: bool = True  # stop the runs of users who are deactivated
    #: The tokens of ``rest_framework.authtoken`` are ours: see ``runs.identity.tokens``.
    drf_tokens: bool = False
    api_token_days: _Days = 365.0  # how long a token lasts at most; 0 is for ever
    audit_keep_days: _Days = 400.0  # older entries of the audit log are removed; 0 is for ever
    api_throttle_rate: _Rate | None = "600/min"  # per user or address; None is off
    metrics_token: str = field(default="", repr=False)  # a scraper of /metrics sends it
    # Hosts, addresses or networks whose servers get the trace of a run that requests something of
    # them, models' endpoints included; "*" is all. By default none: the ids of a trace tell a
    # stranger which of its requests belong together.
    traceparent_hosts: Sequence[str] = ()
    llm: LLMOptions = field(default_factory=LLMOptions)
    http: HTTPOptions = field(default_factory=HTTPOptions)

    @property
    def lease(self) -> LeaseTimes:
        return LeaseTimes(self.lease_seconds)


def conf() -> Options:
    """Return the options as the settings have them now."""
    return replace(_from_settings(), **_overrides) if _overrides else _from_settings()


def override(**changes: Any) -> None:
    """Let options of the command line replace the settings in this process."""
    _overrides.update(changes)


_overrides: dict[str, Any] = {}


@cache
def _from_settings() -> Options:
    given = _lower(getattr(settings, "RUNS", {}))
    # Until it was an option it was a setting of its own.
    given["metrics_token"] = given.get("metrics_token") or getattr(settings, "METRICS_TOKEN", "")
    for name, group in _GROUPS.items():
        given[name] = group(**_known(group, _lower(given.get(name, {}))))
    return Options(**_known(Options, given))


def unknown_names(given: Mapping[str, Any]) -> list[str]:
    """Return the names in ``settings.RUNS`` that are no options, most likely misspelled ones."""
    given = _lower(given)
    unknown = sorted(name.upper() for name in set(given) - _names(Options))
    for group, options in _GROUPS.items():
        names = set(_lower(given.get(group, {}))) - _names(options)
        unknown += sorted(f"{group.upper()}.{name.upper()}" for name in names)
    return unknown


_GROUPS: dict[str, type[Any]] = {"llm": LLMOptions, "http": HTTPOptions}


def _names(options: type[Any]) -> set[str]:
    return {item.name for item in fields(options)}


def _known(options: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _names(options) if name in given}


def _lower(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in given.items()}


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("RUNS", "METRICS_TOKEN"):
        _from_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="runs.conf")
