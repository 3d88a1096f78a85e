"""A tree."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from agents import AgentStopped
from agents.cancellation import (
    CancelToken,
    StopCause,
    StopMode,
)
from tests.support.parallel import SECONDS, in_parallel


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
    root.request("abort", cause=StopCause.REQUEST)
    child = CancelToken(root)
    assert (child.mode, child.cause) == (StopMode.ABORT, StopCause.REQUEST)
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
