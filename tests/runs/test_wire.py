"""What a tree has used, beside what its root has."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from runs.models import RunRecord
from runs.wire import for_wire, get_for_wire, read_tree_usage, run_as_dict
from tests.support.rows import make_run

pytestmark = pytest.mark.usefixtures("on_both_databases")


def used(calls: int, tokens: int, *, estimated: bool = False) -> dict[str, object]:
    return {
        "llm_calls": calls,
        "input_tokens": tokens,
        "output_tokens": 2 * tokens,
        "estimated": estimated,
    }


@pytest.fixture
def tree(alice: User) -> dict[str, RunRecord]:
    """root -> (left -> leaf, right), another root, and one alone."""

    def make(tokens: int, parent: RunRecord | None = None, **fields: object) -> RunRecord:
        usage = {"llm_calls": 1, "input_tokens": tokens, "output_tokens": 2 * tokens}
        if parent is not None:
            RunRecord.objects.filter(pk=parent.pk).update(has_children=True)
        return make_run(alice, parent=parent, **usage, **fields)

    root, other, alone = make(1), make(2**40), make(7)
    left, right = make(10, root), make(100, root)
    leaf = make(1_000, left, usage_estimated=True)
    make(5, other)
    names = {"root": root, "left": left, "right": right, "leaf": leaf, "other": other}
    return {**names, "alone": alone}


EXPECTED = {
    "root": used(4, 1_111, estimated=True),
    "left": used(2, 1_010, estimated=True),
    "right": used(1, 100),
    "leaf": used(1, 1_000, estimated=True),
    "other": used(2, 2**40 + 5),
    "alone": used(1, 7),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_has_the_usage_of_all_below_it(tree: dict[str, RunRecord], name: str) -> None:
    assert run_as_dict(get_for_wire(tree[name].pk))["usage_tree"] == EXPECTED[name]


@pytest.mark.parametrize("name", ["root", "left"])
def test_what_a_run_uses_after_its_record_was_read_is_not_counted(
    tree: dict[str, RunRecord], name: str
) -> None:
    run = get_for_wire(tree[name].pk)
    RunRecord.objects.filter(pk=run.pk).update(llm_calls=50, usage_estimated=True)
    assert run_as_dict(run)["usage_tree"] == EXPECTED[name]


def test_many_runs_cost_two_queries(tree: dict[str, RunRecord]) -> None:
    runs = list(for_wire(RunRecord.objects.all()))
    with CaptureQueriesContext(connection) as captured:
        read_tree_usage(runs)
        found = {run.pk: run_as_dict(run)["usage_tree"] for run in runs}
    assert len(captured) == 2
    assert {name: found[run.pk] for name, run in tree.items()} == EXPECTED


def test_runs_without_children_cost_none(tree: dict[str, RunRecord]) -> None:
    runs = list(for_wire(RunRecord.objects.filter(has_children=False)))
    with CaptureQueriesContext(connection) as captured:
        read_tree_usage(runs)
        for run in runs:
            run_as_dict(run)
    assert len(captured) == 0
