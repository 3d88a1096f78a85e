"""Rights that are looked at again: in few queries, whatever is watched."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runs.identity import tokens
from runs.identity.models import ApiToken
from runs.web.feed import Viewer
from runs.web.feed.rights import find_lost
from tests.support.rows import make_run

pytestmark = pytest.mark.django_db


def test_of_many_runs_cost_no_more_than_of_one(alice: User) -> None:
    token = tokens.create(alice)[0]
    viewers = {Viewer(alice.pk, token=token, run=make_run(alice).pk) for _ in range(50)}
    costs = []
    for some in (set(list(viewers)[:1]), viewers):
        with CaptureQueriesContext(connection) as queries:
            assert find_lost(some) == {}
        costs.append(len(queries))
    assert costs[0] == costs[1] <= 4


def test_each_has_its_reason(alice: User, bob: User) -> None:
    def viewer(user: User, run: Any = None, **fields: Any) -> Viewer:
        token = tokens.create(user)[0]
        return Viewer(user.pk, **{"token": token, "run": run, **fields})

    alices, bobs = make_run(alice).pk, make_run(bob).pk
    User.objects.filter(pk=bob.pk).update(is_active=True)
    stays = [viewer(alice, alices), viewer(bob, bobs), viewer(alice)]
    lost = {
        viewer(alice, bobs): "not_found",
        viewer(alice, uuid.uuid4()): "gone",
        viewer(alice, alices, token="0" * 40): "not_authenticated",
        viewer(alice, sees_all=True): "not_found",
    }
    found = find_lost({*stays, *lost})
    assert {who: why.why for who, why in found.items()} == lost
    bob.user_permissions.add(Permission.objects.get(codename="view_runrecord"))
    assert find_lost({viewer(bob, alices), viewer(bob, sees_all=True)}) == {}
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert {why.why for why in find_lost({viewer(bob, bobs)}).values()} == {"not_authenticated"}


@pytest.mark.parametrize("end", ["revoked", "expired", "password"])
def test_a_token_that_ends_ends_its_feeds(alice: User, end: str) -> None:
    key, token = tokens.create(alice)
    viewer = Viewer(alice.pk, token=key, run=make_run(alice).pk)
    assert find_lost({viewer}) == {}
    if end == "revoked":
        tokens.revoke(alice, token.pk)
    elif end == "expired":
        ApiToken.objects.update(expires_at=timezone.now())
    else:
        User.objects.filter(pk=alice.pk).update(password="md5$x$y")
    assert find_lost({viewer})[viewer].why == "not_authenticated"
