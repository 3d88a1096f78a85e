"""Sessions end when they are not used, with the password, and after two weeks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from runs.identity import sessions
from tests.support.rows import make_run
from tests.support.server import ROOT

HOUR = 60 * 60


class Clock:
    def __init__(self) -> None:
        self.now = 2_000_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(sessions, "time", made)
    return made


@pytest.fixture
def browser(alice: User, clock: Clock, settings: Any) -> Client:
    settings.SESSION_COOKIE_AGE = 24 * HOUR
    made = Client()
    made.force_login(alice)
    return made


def writes(browser: Client, path: str = "/app/tokens/", **post: Any) -> int:
    with CaptureQueriesContext(connection) as queries:
        answer = browser.post(path, **post) if post else browser.get(path)
        assert answer.status_code < 300, answer.status_code
    return sum('UPDATE "django_session"' in query["sql"] for query in queries)


@pytest.mark.django_db
def test_use_prolongs_it_without_a_write_at_each_request(browser: Client, clock: Clock) -> None:
    assert writes(browser) == 0
    clock.now += HOUR
    assert writes(browser) == 0
    clock.now += HOUR
    assert writes(browser) == 1
    assert writes(browser) == 0
    assert browser.session.get_expiry_age() == 24 * HOUR


@pytest.mark.django_db
def test_a_stop_never_waits_for_that(browser: Client, clock: Clock, alice: User) -> None:
    run = make_run(alice)
    clock.now += 23 * HOUR
    body = {"data": "{}", "content_type": "application/json"}
    assert writes(browser, f"/runs/{run.pk}/stop", **body) == 0


@pytest.mark.django_db
def test_it_ends_two_weeks_after_the_sign_in(browser: Client, clock: Clock) -> None:
    for _ in range(27):
        clock.now += 12 * HOUR
        assert browser.get("/app/").status_code == 200
    assert browser.session.get_expiry_age() == 12 * HOUR
    clock.now += 12 * HOUR
    browser.get("/app/")
    left = Session.objects.get().expire_date - timezone.now()
    assert left <= timedelta(seconds=1)


@pytest.mark.django_db
def test_a_session_of_before_is_prolonged_as_well(browser: Client, clock: Clock) -> None:
    session = browser.session
    del session["used"]
    session.save()
    assert writes(browser) == 1
    assert browser.session["used"] == [clock.now, clock.now]


@pytest.mark.parametrize("debug", ["0", "1"])
def test_cookies_have_the_prefix_where_there_is_tls(debug: str) -> None:
    code = (
        "import json; from project import settings as s; print(json.dumps([s.SESSION_COOKIE_NAME,"
        " s.CSRF_COOKIE_NAME, s.SESSION_COOKIE_AGE, s.SESSION_COOKIE_SECURE]))"
    )
    environment = os.environ | {"DJANGO_DEBUG": debug, "SESSION_IDLE_SECONDS": "900"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    prefix = "" if debug == "1" else "__Host-"
    expected = [f"{prefix}sessionid", f"{prefix}csrftoken", 900, debug == "0"]
    assert json.loads(done.stdout) == expected
