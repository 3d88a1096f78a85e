"""The token, and cleanup(): what a stop is, before any tool comes into it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import AgentStopped, check_should_stop, cleanup, should_stop
from agents.cancellation import (
    CancelToken,
    Lease,
    StopCause,
    StopMode,
    bind_token,
    current_token,
    has_cleanup,
    is_in_cleanup,
    leave_cleanup,
)

SECONDS = 10.0  # how long anything may take before it is a failure
MODES = list(StopMode)


@pytest.fixture
def token() -> Iterator[CancelToken]:
    """Be the token of the code under test: bound in the test's own context."""
    token = CancelToken()
    reset = bind_token(token)
    yield token
    reset.var.reset(reset)


def in_parallel(*work: Callable[[], Any]) -> list[Any]:
    """Call each function in a thread of its own, all at the same moment."""
    start = threading.Barrier(len(work))

    def begin(function: Callable[[], Any]) -> Any:
        start.wait(SECONDS)
        return function()

    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(begin, function) for function in work]
        return [future.result(SECONDS) for future in futures]


# --- a request --------------------------------------------------------------------------------


def test_a_new_token_is_not_stopped() -> None:
    token = CancelToken()
    assert not token.stopped
    assert token.mode is token.cause is token.acknowledged_at is token.observed_at is None


def test_a_request_says_how_why_and_when() -> None:
    token = CancelToken()
    before = datetime.now(UTC)
    assert token.request("abort", "too dear") is True
    assert (token.stopped, token.mode, token.reason) == (True, StopMode.ABORT, "too dear")
    assert token.cause is StopCause.WISH
    assert token.acknowledged_at is not None
    assert before <= token.acknowledged_at <= datetime.now(UTC)
    assert token.acknowledged_monotonic is not None
    assert token.acknowledged_monotonic <= time.monotonic()
    assert token.observed_at is None


def test_an_unknown_mode_is_refused_and_changes_nothing() -> None:
    token = CancelToken()
    with pytest.raises(ValueError, match="gently"):
        token.request("gently")
    assert not token.stopped


def test_a_second_request_changes_neither_reason_nor_instant() -> None:
    token = CancelToken()
    token.request(reason="first")
    first = (token.acknowledged_at, token.acknowledged_monotonic)
    assert token.request(reason="second") is False
    assert token.reason == "first"
    assert (token.acknowledged_at, token.acknowledged_monotonic) == first


@given(st.lists(st.tuples(st.sampled_from(MODES), st.sampled_from(list(StopCause))), min_size=1))
def test_requests_only_ever_escalate(requests: list[tuple[StopMode, StopCause]]) -> None:
    token = CancelToken()
    calls: list[tuple[StopMode | None, StopCause | None]] = []
    token.add_callback(lambda token: calls.append((token.mode, token.cause)))
    reasons: list[str] = []
    for number, (mode, cause) in enumerate(requests):
        before = (token.mode, token.cause)
        changed = token.request(mode, str(number), cause=cause)
        assert changed == (before != (token.mode, token.cause))
        reasons.append(token.reason)
    assert token.mode == max((mode for mode, _ in requests), key=lambda mode: mode.rank)
    wished = [number for number, (_, cause) in enumerate(requests) if cause is StopCause.WISH]
    assert token.cause is (StopCause.WISH if wished else StopCause.SHUTDOWN)
    # The reason is that of the first wish; without one, of the first request.
    assert token.reason == str(wished[0] if wished else 0)
    # A callback for each change, and none for what changed nothing.
    assert len(calls) == len(set(calls))
    assert calls[-1] == (token.mode, token.cause)


def test_a_wish_after_a_shutdown_brings_its_own_reason_and_keeps_the_instant() -> None:
    token = CancelToken()
    token.request(reason="the worker goes away", cause=StopCause.SHUTDOWN)
    at = token.acknowledged_at
    assert token.request(reason="enough", cause=StopCause.WISH) is True
    assert (token.cause, token.reason, token.acknowledged_at) == (StopCause.WISH, "enough", at)
    assert token.request(reason="again", cause=StopCause.SHUTDOWN) is False
    assert (token.cause, token.reason) == (StopCause.WISH, "enough")


def test_whoever_sees_the_token_stopped_sees_the_rest_too() -> None:
    for _ in range(300):
        token = CancelToken()

        def look(token: CancelToken = token) -> tuple[Any, ...]:
            while not token.stopped:
                pass
            return token.mode, token.cause, token.reason, token.acknowledged_at is None

        seen, _changed = in_parallel(look, lambda token=token: token.request(reason="enough"))
        assert seen == (StopMode.GRACEFUL, StopCause.WISH, "enough", False)


def test_of_many_requests_at_once_exactly_one_counts_per_rung() -> None:
    for _ in range(200):
        token = CancelToken()
        calls: list[str] = []
        token.add_callback(lambda token, calls=calls: calls.append(str(token.mode)))
        answers = in_parallel(*[lambda token=token: token.request("graceful")] * 4)
        assert sorted(answers) == [False, False, False, True]
        assert calls == ["graceful"]


def test_a_graceful_and_an_abort_request_at_once_end_as_abort_in_either_order() -> None:
    for _ in range(300):
        token = CancelToken()
        modes: list[StopMode | None] = []
        token.add_callback(lambda token, modes=modes: modes.append(token.mode))
        graceful, abort = in_parallel(
            lambda token=token: token.request("graceful"),
            lambda token=token: token.request("abort"),
        )
        assert abort is True
        assert token.mode is StopMode.ABORT
        assert modes[-1] is StopMode.ABORT
        assert len(modes) == 1 + graceful
    token = CancelToken()  # the order that the threads may not have hit upon
    assert (token.request("abort"), token.request("graceful")) == (True, False)
    token = CancelToken()
    assert (token.request("graceful"), token.request("abort")) == (True, True)


# --- a tree -----------------------------------------------------------------------------------


def test_a_request_marks_the_whole_subtree_and_nothing_else() -> None:
    root = CancelToken()
    left, right = CancelToken(root), CancelToken(root)
    below_left = [CancelToken(left) for _ in range(3)]
    below_right = CancelToken(right)
    left.request("abort", "only this branch")
    assert all(token.stopped for token in [left, *below_left])
    assert {token.reason for token in below_left} == {"only this branch"}
    assert {token.mode for token in below_left} == {StopMode.ABORT}
    assert not any(token.stopped for token in [root, right, below_right])


def test_a_descendant_that_is_stopped_harder_already_keeps_its_own() -> None:
    root = CancelToken()
    child = CancelToken(root)
    child.request("abort", "mine")
    root.request("graceful", "all")
    assert (child.mode, child.reason) == (StopMode.ABORT, "mine")
    root.request("abandon")
    assert child.mode is StopMode.ABANDON
    assert child.reason == "mine"


def test_a_repeat_on_the_parent_reaches_a_child_though_it_changes_nothing_at_the_parent() -> None:
    root = CancelToken()
    root.request("abort", cause=StopCause.WISH)
    child = CancelToken(root)
    assert (child.mode, child.cause) == (StopMode.ABORT, StopCause.WISH)
    assert root.request("graceful") is False


def test_when_the_first_callback_runs_all_descendants_are_marked() -> None:
    root = CancelToken()
    tree = [root]
    for _ in range(50):
        tree += [CancelToken(tree[len(tree) // 2]), CancelToken(tree[-1])]
    seen: list[bool] = []
    for token in tree:
        token.add_callback(lambda _: seen.append(all(t.stopped for t in tree)))
    root.request()
    assert seen == [True] * len(tree)
    assert len({token.acknowledged_at for token in tree}) == 1


def test_a_child_that_is_born_during_the_request_is_stopped_in_either_order() -> None:
    born_before = 0
    for _ in range(300):
        root = CancelToken()
        middle = CancelToken(root)
        born = threading.Event()

        def give_birth(
            middle: CancelToken = middle, born: threading.Event = born
        ) -> list[tuple[CancelToken, bool]]:
            children = []
            parent = middle
            for number in range(20):
                parent = CancelToken(parent if number % 2 else middle)
                children.append((parent, parent.stopped))
                born.set()
            return children

        def stop(root: CancelToken = root, born: threading.Event = born) -> bool:
            born.wait(SECONDS)
            return root.request(reason="all")

        children, _ = in_parallel(give_birth, stop)
        assert all(child.stopped and child.reason == "all" for child, _ in children)
        born_before += not children[0][1]
    assert born_before, "no child was ever born before the request"
    late = CancelToken(root)  # the other order, should the threads never have hit upon it
    assert late.stopped


def test_a_child_of_a_stopped_parent_is_born_stopped_with_the_parents_reason() -> None:
    root = CancelToken()
    root.request("abort", "enough", cause=StopCause.SHUTDOWN)
    child = CancelToken(root)
    assert (child.stopped, child.mode, child.reason) == (True, StopMode.ABORT, "enough")
    assert child.cause is StopCause.SHUTDOWN
    with pytest.raises(AgentStopped, match="enough"):
        child.admit()
    assert root.observed_at is None


def test_tokens_of_runs_that_are_over_do_not_pile_up_at_their_parent() -> None:
    root = CancelToken()
    kept = CancelToken(root)
    gone = weakref.ref(CancelToken(root))
    for _ in range(100):
        CancelToken(root)
    gc.collect()
    assert gone() is None
    assert root._children is not None
    assert list(root._children) == [kept]


# --- callbacks and observers ------------------------------------------------------------------


def test_a_callback_is_called_at_the_request_and_at_each_escalation() -> None:
    token = CancelToken()
    modes: list[tuple[StopMode | None, StopCause | None]] = []
    token.add_callback(lambda token: modes.append((token.mode, token.cause)))
    token.request("graceful", cause=StopCause.SHUTDOWN)
    token.request("graceful", cause=StopCause.SHUTDOWN)
    token.request("graceful", cause=StopCause.WISH)
    token.request("abort")
    token.request("graceful")
    token.request("abandon")
    wish = StopCause.WISH
    assert modes == [
        (StopMode.GRACEFUL, StopCause.SHUTDOWN),
        (StopMode.GRACEFUL, wish),
        (StopMode.ABORT, wish),
        (StopMode.ABANDON, wish),
    ]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    token = CancelToken()
    token.request()
    calls: list[CancelToken] = []
    token.add_callback(calls.append)
    assert calls == [token]


def test_a_callback_added_while_a_stop_comes_is_called_exactly_once() -> None:
    for _ in range(300):
        token = CancelToken()
        calls: list[CancelToken] = []
        in_parallel(
            lambda token=token, calls=calls: token.add_callback(calls.append),
            lambda token=token: token.request(),
        )
        assert calls == [token]


def test_a_callback_that_was_removed_is_not_called() -> None:
    token = CancelToken()
    calls: list[CancelToken] = []
    token.add_callback(calls.append)
    token.remove_callback(calls.append)
    token.remove_callback(calls.append)
    token.request()
    assert calls == []


def test_callbacks_may_use_the_token_and_make_children() -> None:
    token = CancelToken()
    sibling = CancelToken(token)
    done = threading.Event()

    def callback(token: CancelToken) -> None:
        token.request("abort")  # each of these takes the lock
        CancelToken(sibling)
        token.observe()
        done.set()

    token.add_callback(callback)
    thread = threading.Thread(target=token.request, daemon=True)
    thread.start()
    assert done.wait(SECONDS), "a callback runs under the lock"
    thread.join(SECONDS)
    assert token.mode is StopMode.ABORT


def test_a_callback_that_fails_keeps_no_other_from_being_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = CancelToken()
    calls: list[CancelToken] = []

    def fail(token: CancelToken) -> None:
        raise ValueError("a bug")

    token.add_callback(fail)
    token.add_callback(calls.append)
    with caplog.at_level(logging.ERROR):
        assert token.request() is True
    assert calls == [token]
    assert "a bug" in caplog.text


def test_the_stop_is_observed_once_and_tells_where() -> None:
    token = CancelToken()
    observed: list[tuple[str, str]] = []
    token.add_observer(lambda tool, label: observed.append((tool, label)))
    token.request()
    assert observed == []
    for _ in range(2):
        with pytest.raises(AgentStopped):
            token.admit("http", "GET example.org")
    first = token.observed_at
    token.observe("later")
    assert observed == [("http", "GET example.org")]
    assert token.observed_at is first


def test_of_many_threads_that_meet_the_stop_one_is_the_first() -> None:
    for _ in range(200):
        token = CancelToken()
        observed: list[str] = []
        token.add_observer(lambda tool, label, observed=observed: observed.append(tool))
        token.request()
        in_parallel(*[lambda token=token: token.observe("x")] * 4)
        assert observed == ["x"]


def test_a_token_can_be_used_by_what_the_garbage_collector_ends_while_it_is_in_use() -> None:
    """A suspended coroutine is ended by the collector, in whichever code it happens to run."""

    class Finalised:
        def __init__(self, token: CancelToken) -> None:
            self.token = token
            self.itself = self

        def __del__(self) -> None:
            self.token.observe("del")
            ended.set()

    ended = threading.Event()
    token = CancelToken()
    token.request()
    Finalised(token)

    def collect_under_the_lock() -> None:
        with token._lock:
            gc.collect()

    thread = threading.Thread(target=collect_under_the_lock, daemon=True)
    thread.start()
    assert ended.wait(SECONDS), "the thread waits for a lock that it holds itself"
    thread.join(SECONDS)


# --- admission --------------------------------------------------------------------------------


def test_no_call_is_admitted_after_the_acknowledgement() -> None:
    admitted = 0
    for _ in range(200):
        root = CancelToken()
        child = CancelToken(root)
        going = threading.Event()

        def call(child: CancelToken = child, going: threading.Event = going) -> list[float]:
            instants: list[float] = []
            try:
                while True:
                    instants.append(child.admit("x"))
                    going.set()
            except AgentStopped:
                return instants

        def stop(root: CancelToken = root, going: threading.Event = going) -> list[float]:
            going.wait(SECONDS)
            root.request()
            return []

        *instants, _ = in_parallel(call, call, call, stop)
        assert child.acknowledged_monotonic is not None
        late = [at for some in instants for at in some if at > child.acknowledged_monotonic]
        assert late == []
        admitted += sum(map(len, instants))
    assert admitted >= 200


def test_a_stop_that_comes_while_a_call_is_being_admitted_is_acknowledged_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = CancelToken()
    stopping = threading.Thread(target=token.request)

    def clock() -> float:
        if threading.current_thread() is threading.main_thread():  # the decision has been taken
            stopping.start()
            stopping.join(0.1)  # it can't get through before the admission is over
        return time.monotonic()

    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=clock))
    admitted_at = token.admit()
    stopping.join(SECONDS)
    assert token.acknowledged_monotonic is not None
    assert admitted_at <= token.acknowledged_monotonic


def test_a_refusal_says_the_reason_and_an_admission_the_instant() -> None:
    token = CancelToken()
    before = time.monotonic()
    assert before <= token.admit() <= time.monotonic()
    token.request(reason="over budget")
    with pytest.raises(AgentStopped, match="over budget"):
        token.admit()
    nameless = CancelToken()
    nameless.request()
    with pytest.raises(AgentStopped, match="a stop was requested"):
        nameless.admit()


# --- the ambient token ------------------------------------------------------------------------


def test_outside_any_run_nothing_is_ever_stopped() -> None:
    def look() -> tuple[Any, ...]:
        check_should_stop()
        with cleanup():
            pass
        return current_token(), should_stop(), is_in_cleanup()

    assert contextvars.Context().run(look) == (None, False, False)


def test_asking_counts_as_having_observed_only_if_the_answer_is_yes(token: CancelToken) -> None:
    assert should_stop() is False
    assert token.observed_at is None
    token.request()
    assert should_stop() is True
    assert token.observed_at is not None


def test_the_check_raises_again_and_again(token: CancelToken) -> None:
    check_should_stop()
    token.request(reason="enough")
    for _ in range(3):
        with pytest.raises(AgentStopped, match="enough"):
            check_should_stop()
    assert token.observed_at is not None


async def test_tasks_and_threads_inherit_the_token_and_siblings_do_not(token: CancelToken) -> None:
    token.request()

    async def ask() -> bool:
        return should_stop()

    assert await asyncio.create_task(ask()) is True
    assert await asyncio.to_thread(should_stop) is True
    assert await asyncio.create_task(ask(), context=contextvars.Context()) is False


# --- cleanup() --------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        cleanup(seconds)


async def test_within_cleanup_guards_let_through_and_should_stop_still_says_true(
    token: CancelToken,
) -> None:
    token.request()
    async with cleanup():
        token.admit("data_store.set")
        check_should_stop()
        assert token.observed_at is None, "letting through is no observation"
        assert is_in_cleanup()
        assert should_stop() is True
        assert token.observed_at is not None
    assert not is_in_cleanup()
    with pytest.raises(AgentStopped):
        token.admit()


def test_within_cleanup_of_a_def_agent_guards_let_through_and_refuse_afterwards(
    token: CancelToken,
) -> None:
    token.request()
    with cleanup():
        token.admit("data_store.set")
        check_should_stop()
        assert should_stop() is True
    with pytest.raises(AgentStopped):
        check_should_stop()


async def test_what_is_never_allowed_in_cleanup_is_refused_there(token: CancelToken) -> None:
    token.request()
    async with cleanup():
        with pytest.raises(AgentStopped):
            token.admit("agents.call", in_cleanup=False)


async def test_at_its_limit_the_await_in_progress_is_cut_and_guards_refuse(
    token: CancelToken,
) -> None:
    token.request()
    refused: list[bool] = []

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                await forever()
            finally:
                with pytest.raises(AgentStopped):
                    token.admit()
                refused.append(True)

    with pytest.raises(AgentStopped, match=r"cut after 0\.02 s"):
        await save()
    assert refused == [True]
    await asyncio.sleep(0)  # nothing of the cut is left over
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_from_its_cut_on_it_is_over_whatever_the_clock_says(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may fire a timer a moment before its time."""
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: 100.0))
    token.request()

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                await forever()
            finally:
                assert not is_in_cleanup()

    with pytest.raises(AgentStopped):
        await save()


async def test_the_time_runs_from_the_stop_when_that_comes_later(token: CancelToken) -> None:
    async with cleanup(seconds=0.02) as block:
        assert block._deadline is None, "without a stop there is no limit"
        assert block.is_open

    async def save() -> None:
        async with cleanup(seconds=0.05):
            asyncio.get_running_loop().call_soon(token.request)
            await forever()

    with pytest.raises(AgentStopped):
        await save()
    assert token.acknowledged_monotonic is not None
    assert time.monotonic() - token.acknowledged_monotonic >= 0.05


async def test_a_stop_from_another_thread_starts_the_time(token: CancelToken) -> None:
    entered = threading.Event()
    stopping = asyncio.get_running_loop().run_in_executor(
        None, lambda: entered.wait(SECONDS) and token.request()
    )

    async def save() -> None:
        async with cleanup(seconds=0.02):
            entered.set()
            await forever()

    with pytest.raises(AgentStopped):
        await save()
    assert await stopping is True


def test_in_a_thread_guards_refuse_from_the_limit_on(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    with cleanup(seconds=5):
        clock.now += 1000
        token.request()
        clock.now += 4.9
        token.admit()
        check_should_stop()
        clock.now += 0.1
        with pytest.raises(AgentStopped):
            token.admit()
        with pytest.raises(AgentStopped):
            check_should_stop()


def test_the_clock_runs_from_the_entry_when_the_stop_was_earlier(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    token.request()
    clock.now += 1000
    with cleanup(seconds=5):
        clock.now += 4.9
        assert is_in_cleanup()
        clock.now += 0.2
        assert not is_in_cleanup()


@pytest.mark.parametrize("mode", ["graceful", "abort"])
def test_an_escalation_below_abandon_neither_shortens_nor_prolongs_it(
    token: CancelToken, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("agents.cancellation.time", SimpleNamespace(monotonic=lambda: clock.now))
    token.request("graceful", cause=StopCause.SHUTDOWN)
    with cleanup(seconds=5):
        clock.now += 3
        token.request(mode, cause=StopCause.WISH)
        assert is_in_cleanup()
        clock.now += 2.1
        assert not is_in_cleanup()


async def test_abandon_ends_it_at_once(token: CancelToken) -> None:
    token.request()

    async def save() -> None:
        async with cleanup(seconds=1000):
            asyncio.get_running_loop().call_soon(token.request, "abandon")
            await forever()

    with pytest.raises(AgentStopped):
        await save()
    with pytest.raises(AgentStopped), cleanup(seconds=1000):
        check_should_stop()


async def test_a_nested_one_that_ends_first_is_cut_alone(token: CancelToken) -> None:
    token.request()
    async with cleanup(seconds=1000):
        with pytest.raises(AgentStopped):
            async with cleanup(seconds=0.02):
                await forever()
        token.admit()


async def test_the_outer_one_ends_what_is_nested_in_it(token: CancelToken) -> None:
    token.request()
    steps: list[str] = []

    async def save() -> None:
        async with cleanup(seconds=0.02):
            try:
                async with cleanup(seconds=1000) as inner:
                    try:
                        await forever()
                    finally:
                        assert not inner.is_open
                        steps.append("cut")
            finally:
                steps.append("out of the inner one")

    with pytest.raises(AgentStopped, match=r"0\.02"):
        await save()
    assert steps == ["cut", "out of the inner one"]


async def test_a_block_that_swallows_its_cut_goes_on_and_is_refused(token: CancelToken) -> None:
    token.request()
    async with cleanup(seconds=0.02):
        with pytest.raises(asyncio.CancelledError):
            await forever()
        with pytest.raises(AgentStopped):
            check_should_stop()
        await asyncio.sleep(0)  # it may still await
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_task_of_its_own_may_clean_up(token: CancelToken) -> None:
    token.request()

    async def save(seconds: float) -> None:
        async with cleanup(seconds):
            token.admit()
            await forever()

    with pytest.raises(BaseExceptionGroup) as failed:
        async with asyncio.TaskGroup() as group:
            group.create_task(save(0.02))
    assert [type(error) for error in failed.value.exceptions] == [AgentStopped]


async def test_a_task_that_outlives_the_block_is_not_let_through_any_more(
    token: CancelToken,
) -> None:
    token.request()
    go_on = asyncio.Event()

    async def late() -> None:
        token.admit()
        await go_on.wait()
        assert has_cleanup()
        assert not is_in_cleanup()
        token.admit()

    async with cleanup():
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(AgentStopped):
        await task


async def test_a_called_agent_does_not_inherit_its_callers(token: CancelToken) -> None:
    token.request()

    async def called() -> bool:
        leave_cleanup()
        return is_in_cleanup()

    async with cleanup():
        assert await asyncio.create_task(called()) is False
        assert is_in_cleanup()


@pytest.mark.parametrize("own_is_outside", [True, False])
async def test_an_own_time_limit_works_around_it_and_inside_it(
    token: CancelToken, own_is_outside: bool
) -> None:
    token.request()

    async def save() -> None:
        if own_is_outside:
            async with asyncio.timeout(0.02), cleanup(seconds=1000):
                await forever()
        else:
            async with cleanup(seconds=1000), asyncio.timeout(0.02):
                await forever()

    with pytest.raises(TimeoutError):
        await save()
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("own_is_outside", [True, False])
async def test_an_own_time_limit_that_is_longer_leaves_the_cut_alone(
    token: CancelToken, own_is_outside: bool
) -> None:
    token.request()

    async def save() -> None:
        if own_is_outside:
            async with asyncio.timeout(1000), cleanup(seconds=0.02):
                await forever()
        else:
            async with cleanup(seconds=0.02), asyncio.timeout(1000):
                await forever()

    with pytest.raises(AgentStopped):
        await save()


async def test_a_cancellation_from_outside_stays_one_within_cleanup(token: CancelToken) -> None:
    token.request()
    entered = asyncio.Event()

    async def save() -> None:
        async with cleanup(seconds=1000):
            entered.set()
            await forever()

    task = asyncio.create_task(save())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_exception_of_the_block_comes_out_as_it_is(token: CancelToken) -> None:
    token.request()
    with pytest.raises(ZeroDivisionError):
        async with cleanup():
            _ = 1 / 0
    assert not is_in_cleanup()
    assert not token._callbacks, "it has forgotten to take its callback away"


async def test_a_block_can_be_entered_once_only(token: CancelToken) -> None:
    block = cleanup()
    async with block:
        with pytest.raises(RuntimeError, match="entered twice"):
            await block.__aenter__()
        with pytest.raises(RuntimeError, match="entered twice"):
            block.__enter__()
        assert block.is_open
    with pytest.raises(RuntimeError, match="entered twice"):
        block.__enter__()
    with pytest.raises(RuntimeError, match="entered twice"):
        await block.__aenter__()


async def test_a_block_that_is_left_in_another_context_is_closed_all_the_same(
    token: CancelToken,
) -> None:
    """An async generator that nobody reads to its end is closed by a task of its own."""
    blocks: list[cleanup] = []

    async def pages() -> AsyncIterator[int]:
        with cleanup() as block:
            blocks.append(block)
            yield 1
            yield 2

    reading = pages()
    await anext(reading)
    await asyncio.create_task(reading.aclose())  # type: ignore[attr-defined]
    assert not blocks[0].is_open


async def test_a_stop_after_the_end_of_the_block_does_nothing_to_it(token: CancelToken) -> None:
    async with cleanup(seconds=0.001) as block:
        pass
    token.request()
    await asyncio.sleep(0)
    assert block._deadline is None


async def test_a_stop_at_the_very_end_of_the_block_cuts_nothing_that_follows(
    token: CancelToken,
) -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    async with cleanup(seconds=0.001):
        token.request()  # has asked the loop to set the cut, and the block is over before
    await asyncio.sleep(0.005)  # for the timer that must not be there
    assert complaints == []
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


def test_a_stop_after_the_loop_was_closed_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    token = CancelToken()

    async def leave_open() -> cleanup:
        bind_token(token)
        block = cleanup()
        await block.__aenter__()
        return block

    block = asyncio.run(leave_open())
    with caplog.at_level(logging.WARNING):
        assert token.request() is True
    assert caplog.records == []
    assert block._deadline is not None


async def forever() -> None:
    """Wait for what never comes; whoever relies on a cut fails after some seconds."""
    async with asyncio.timeout(SECONDS):
        await asyncio.Event().wait()
    raise AssertionError("nothing has cut this")


class TestALease:
    def test_over_trips_the_token_that_notices_and_refuses(self) -> None:
        lease = Lease(time.monotonic() + 60)
        token = CancelToken(lease=lease)
        child = CancelToken(token)
        token.admit("tool")
        child.admit("tool")
        lease.until = time.monotonic()
        assert not token.stopped
        with pytest.raises(AgentStopped, match="the lease is over"):
            child.admit("tool")
        assert (child.stopped, child.cause) == (True, StopCause.SHUTDOWN)
        assert not token.stopped  # its own admission, or the host, comes to it
        with pytest.raises(AgentStopped):
            token.admit("tool")

    def test_over_outranks_cleanup(self, token: CancelToken) -> None:
        lease = token.lease = Lease()
        token.request(reason="enough")
        with cleanup(60):
            token.admit("tool")
            lease.end()
            with pytest.raises(AgentStopped):
                token.admit("tool")
        assert (token.reason, token.cause) == ("enough", StopCause.WISH)

    def test_is_extended_while_it_lasts_and_never_after(self) -> None:
        lease = Lease(time.monotonic() + 60)
        assert lease.extend(time.monotonic() + 120)
        lease.until = time.monotonic()
        assert lease.is_over
        assert not lease.extend(time.monotonic() + 120)
        assert lease.is_over

    def test_is_over_for_good_once_somebody_was_refused(self) -> None:
        lease = Lease(time.monotonic())
        with pytest.raises(AgentStopped):
            CancelToken(lease=lease).admit("tool")
        assert not lease.extend(time.monotonic() + 60)

    def test_without_one_there_is_no_end(self) -> None:
        assert CancelToken().admit("tool") <= time.monotonic()
        assert not CancelToken().lease.is_over
