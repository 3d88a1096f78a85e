"""Many starts by one call: one transaction, one message, one outcome each."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from agents import Tools, agent
from agents.exceptions import AgentNotFound, InvalidInput
from runs.actions import starting
from runs.actions.starting import MOST_STARTS, Start, Started, start_many, start_run
from runs.delivery import notify
from runs.exceptions import (
    IdempotencyMismatch,
    InputTooLarge,
    LimitsNotPermitted,
    PriorityNotPermitted,
    QuotaExceeded,
)
from runs.models import RunInput, RunRecord
from runs.quotas import ledger, sizes
from tests.support.journal import Journal
from tests.support.running import together


@pytest.fixture(autouse=True)
def _declared() -> None:
    @agent("say", deadline_seconds=60)
    async def say(tools: Tools, word: str = "") -> str:
        return word


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What wakes the workers, in this order."""
    messages: list[Any] = []
    monkeypatch.setattr(notify, "wake_workers", lambda: messages.append("all"))
    monkeypatch.setattr(notify, "send_start", messages.append)
    return messages


def _words(count: int, **more: Any) -> list[Start]:
    return [Start("say", {"word": f"word {number}"}, **more) for number in range(count)]


def _runs(outcomes: list[Started]) -> list[RunRecord]:
    runs = [one.run for one in outcomes]
    assert all(one.is_new and one.error is None for one in outcomes)
    return [run for run in runs if run is not None]


def test_each_is_as_if_it_was_started_alone(alice: User) -> None:
    start = Start("say", {"word": "ho"}, "a key", -3, {"deadline_seconds": 5})
    (run,) = _runs(start_many([start], owner=alice))
    alone, _ = start_run(
        "say",
        {"word": "ho"},
        owner=alice,
        idempotency_key="another key",
        priority=-3,
        limits={"deadline_seconds": 5},
    )
    stored = [RunRecord.objects.filter(pk=one.pk).values().get() for one in (run, alone)]
    own = {"id", "root_id", "created_at", "queue_until", "idempotency_key", "turn"}
    assert [{k: v for k, v in one.items() if k not in own} for one in stored[:1]] == [
        {k: v for k, v in one.items() if k not in own} for one in stored[1:]
    ]
    inputs = [RunInput.objects.get(pk=one.pk) for one in (run, alone)]
    assert inputs[0].value == inputs[1].value == {"word": "ho"}
    assert inputs[0].size_bytes == inputs[1].size_bytes
    assert run.root_id == run.pk


def test_they_queue_in_their_order_after_the_owners_others(alice: User, bob: User) -> None:
    first, _ = start_run("say", {}, owner=alice)
    many = _runs(start_many([*_words(3), *_words(2, priority=-1)], owner=alice))
    late, _ = start_run("say", {}, owner=alice)
    other, _ = start_run("say", {}, owner=bob)
    turns = dict(RunRecord.objects.values_list("pk", "turn"))
    assert [turns[run.pk] for run in (first, *many[:3], late)] == [1, 2, 3, 4, 5]
    assert [turns[run.pk] for run in many[3:]] == [1, 2], "of their own priority"
    assert turns[other.pk] == 1, "owners come in turn"


def test_a_thousand_are_few_statements_and_one_message(alice: User, sent: list[Any]) -> None:
    with CaptureQueriesContext(connection) as queries:
        runs = _runs(start_many(_words(MOST_STARTS), owner=alice))
    assert sent == ["all"]
    texts = [query["sql"].split("(")[0] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert len(texts) <= 7, texts
    assert RunRecord.objects.filter(pk__in=[run.pk for run in runs]).count() == MOST_STARTS


def test_one_alone_goes_to_one_worker(alice: User, sent: list[Any]) -> None:
    (run,) = _runs(start_many(_words(1), owner=alice))
    assert sent == [run.pk]


def test_none_is_nothing(alice: User, sent: list[Any]) -> None:
    assert start_many([], owner=alice) == []
    assert sent == []


def test_too_many_are_refused_as_a_whole(alice: User) -> None:
    with pytest.raises(ValueError, match="at most 1,000"):
        start_many(_words(MOST_STARTS + 1), owner=alice)
    assert not RunRecord.objects.exists()


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (Start("nobody", {}), AgentNotFound),
        (Start("say", {"word": 3}), InvalidInput),
        (Start("say", []), InvalidInput),
        (Start("say", {}, "a\nkey"), InvalidInput),
        (Start("say", {}, priority=101), InvalidInput),
        (Start("say", {}, priority=1), PriorityNotPermitted),
        (Start("say", {}, limits={"deadline_seconds": 3_600}), LimitsNotPermitted),
        (Start("say", {"word": "x" * 10_000}), InputTooLarge),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_that_is_refused_keeps_no_other_from_starting(
    bad: Start, kind: type[Exception], alice: User, options: Any
) -> None:
    options(MAX_INPUT_BYTES=5_000)
    good = _words(2)
    outcomes = start_many([good[0], bad, good[1]], owner=alice)
    assert [type(one.error) for one in outcomes] == [type(None), kind, type(None)]
    assert [one.run is None for one in outcomes] == [False, True, False]
    assert RunRecord.objects.count() == 2


class TestKeys:
    def test_a_key_that_is_known_starts_nothing(self, alice: User) -> None:
        before, _ = start_run("say", {"word": "a"}, owner=alice, idempotency_key="k")
        starts = [
            Start("say", {"word": "a"}, "k"),
            Start("say", {"word": "b"}, "k"),
            Start("say", {"word": "c"}, "new"),
        ]
        same, other, new = start_many(starts, owner=alice)
        assert (same.run, same.is_new) == (before, False)
        assert isinstance(other.error, IdempotencyMismatch)
        assert new.is_new
        assert [one.run for one in start_many(starts, owner=alice)] == [before, None, new.run]

    def test_twice_in_one_call_the_first_makes_the_run(self, alice: User) -> None:
        starts = [Start("say", {"word": word}, "k") for word in ("a", "a", "b")]
        first, second, third = start_many(starts, owner=alice)
        assert (first.is_new, second.is_new) == (True, False)
        assert first.run == second.run
        assert isinstance(third.error, IdempotencyMismatch)

    def test_a_key_of_another_owner_is_another(self, alice: User, bob: User) -> None:
        ((one,), (two,)) = (
            start_many(_words(1, idempotency_key="k"), owner=u) for u in (alice, bob)
        )
        assert one.is_new
        assert two.is_new
        assert one.run != two.run

    def test_one_that_commits_in_between_is_found(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = starting._known_by_key

        meanwhile = [1, 3]

        def late(owner: User, keys: Any) -> Any:
            found = real(owner, keys)
            if meanwhile:
                number = meanwhile.pop()
                word = {"word": f"word {number}"}
                start_run("say", word, owner=alice, idempotency_key=f"k{number}")
            return found

        monkeypatch.setattr(starting, "_known_by_key", late)
        starts = [Start("say", {"word": f"word {n}"}, f"k{n}") for n in range(5)]
        outcomes = start_many(starts, owner=alice)
        assert [one.is_new for one in outcomes] == [True, False, True, False, True]
        assert RunRecord.objects.count() == 5


class TestQuotas:
    @pytest.mark.parametrize("allowed", [4, 6_000])
    def test_the_queue_takes_what_is_allowed_and_no_more(
        self, allowed: int, alice: User, options: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options(MAX_QUEUED_PER_OWNER=allowed)
        monkeypatch.setattr("runs.quotas.queued.NEAR", allowed + 1)  # so that each is counted
        room = 4
        if allowed > room:
            monkeypatch.setattr("runs.quotas.queued._count", lambda *_: allowed - room)
        outcomes = start_many(_words(room + 2), owner=alice)
        assert [one.is_new for one in outcomes] == [True] * room + [False] * 2
        error = outcomes[-1].error
        assert isinstance(error, QuotaExceeded)
        assert (error.code, error.used, error.allowed) == ("quota_queued", allowed, allowed)

    def test_a_key_whose_run_takes_the_last_place_meanwhile_is_known(
        self, alice: User, options: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options(MAX_QUEUED_PER_OWNER=1)
        real = starting._known_by_key

        def late(owner: User, keys: Any) -> Any:
            found = real(owner, keys)
            start_run("say", {"word": "word 0"}, owner=alice, idempotency_key="k")
            return found

        monkeypatch.setattr(starting, "_known_by_key", late)
        same, other = start_many([*_words(1, idempotency_key="k"), *_words(1)], owner=alice)
        assert (same.is_new, same.run) == (False, RunRecord.objects.get())
        assert isinstance(other.error, QuotaExceeded)

    def test_bytes_are_reserved_once_for_each_that_starts(self, alice: User, options: Any) -> None:
        options(MAX_STORED_BYTES_PER_OWNER=2 * sizes.RUN_BYTES + 2_100)
        big = Start("say", {"word": "x" * 2_000})
        outcomes = start_many([big, big, *_words(1)], owner=alice)
        assert [one.is_new for one in outcomes] == [True, False, True]
        assert isinstance(outcomes[1].error, QuotaExceeded)
        stored = sum(RunRecord.objects.values_list("value_bytes", flat=True))
        assert ledger.usage(alice.pk).stored_bytes == stored

    def test_nothing_stays_reserved_if_the_database_fails(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: Any) -> None:
            raise OperationalError("away")

        monkeypatch.setattr(starting, "_insert_many", fail)
        with pytest.raises(OperationalError):
            start_many(_words(3), owner=alice)
        assert ledger.usage(alice.pk).stored_bytes == 0
        assert not RunRecord.objects.exists()

    def test_nor_if_another_error_of_the_database_comes_twice(
        self, alice: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: Any) -> None:
            raise IntegrityError("another constraint")

        monkeypatch.setattr(starting, "_insert_many", fail)
        with pytest.raises(IntegrityError):
            start_many(_words(3), owner=alice)
        assert ledger.usage(alice.pk).stored_bytes == 0


def test_a_rollback_leaves_nothing(alice: User, sent: list[Any]) -> None:
    def start_and_fail() -> None:
        with transaction.atomic():
            start_many(_words(3), owner=alice)
            raise RuntimeError("after all")

    with pytest.raises(RuntimeError, match="after all"):
        start_and_fail()
    assert sent == []
    assert not RunRecord.objects.exists()


def test_they_run_to_their_ends_in_order(
    hire: Any, alice: User, log: Journal, options: Any
) -> None:
    options(MAX_CONCURRENT=1)
    runs = _runs(start_many(_words(20), owner=alice))
    hire()
    results = [record.result for record in log.until_over(*runs)]
    assert results == [f"word {number}" for number in range(20)]
    started = list(RunRecord.objects.order_by("started_at").values_list("pk", flat=True))
    assert started == [run.pk for run in runs]


@pytest.mark.parametrize("database", ["here", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_many_at_once_with_the_same_keys_start_each_once(database: str, alice: User) -> None:
    for number in range(5):
        starts = [Start("say", {"word": f"word {n}"}, f"{number} {n}") for n in range(200)]
        orders = (starts, starts[::-1], starts[50:] + starts[:50], starts[::-2] + starts[::2])
        found = together(*(partial(start_many, some, owner=alice) for some in orders))
        assert [one for one in found if isinstance(one, Exception)] == []
        outcomes = [one for some in found for one in some]
        assert sum(one.is_new for one in outcomes) == 200
        assert all(one.run is not None for one in outcomes)
    assert RunRecord.objects.count() == 5 * 200
