"""Sites whose users have other names, keys and rights than Django's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.databases import create_database, drop_database
from tests.support.new_site import NewSite, csrf_of, postgres_settings
from tests.support.user_models import site_of_people

ANN, BEN, ROOT = "ann@example.org", "ben@example.org", "root@example.org"


def _token(client: httpx.Client, name: str) -> dict[str, str]:
    body = {"username": name, "password": "correct horse battery staple"}
    answer = client.post("api-token", json=body)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Token {answer.json()['token']}"}


def _start(client: httpx.Client, agent: str, **input: Any) -> str:
    answer = client.post("runs", json={"agent": agent, "input": input})
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["id"]
    return id


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.thorough]),
    ],
)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, package: Path
) -> Iterator[NewSite]:
    """A site of persons: the name is an address, the key a UUID.

    On PostgreSQL it has no pool, and keeps its connections.
    """
    url = create_database(os.environ["DATABASE_URL"]) if request.param == "postgres" else ""
    settings = postgres_settings(url, ', "CONN_MAX_AGE": 60') if url else ""
    site = site_of_people(tmp_path_factory.mktemp("site"), package, "Person", settings)
    try:
        site.manage("migrate", "-v0")
        for name in (ANN, BEN):
            site.add_user(name)
        site.add_user(ROOT, is_superuser=True)
        yield site
    finally:
        if url:
            drop_database(url)


@pytest.fixture(scope="module")
def client(site: NewSite) -> Iterator[httpx.Client]:
    with site.served() as client:
        yield client


@pytest.fixture
def ann(client: httpx.Client) -> Iterator[httpx.Client]:
    """A client with a token of Ann."""
    headers = _token(client, ANN)
    with httpx.Client(base_url=client.base_url, headers=headers, timeout=60) as ann:
        yield ann


def _pages(site: NewSite, name: str, run: str) -> dict[str, int]:
    """Return how the pages answer this user, by their address."""
    paths = ["/app/", "/app/runs/", f"/app/runs/{run}/", "/app/agents/greet/", "/app/tokens/"]
    said = site.shell(
        "from django.contrib.auth import get_user_model\nfrom django.test import Client\n"
        f"user = get_user_model()._default_manager.get_by_natural_key({name!r})\n"
        "client = Client(SERVER_NAME='localhost')\nclient.force_login(user)\n"
        f"for path in {paths}:\n    page = client.get(path)\n"
        "    print(path, page.status_code, str(user.get_username()) in page.content.decode())"
    )
    lines = [line.split() for line in said.splitlines() if line.startswith("/app/")]
    assert all(is_named == "True" for _, _, is_named in lines), said
    return {path: int(status) for path, status, _ in lines}


@contextmanager
def _root(client: httpx.Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=client.base_url, timeout=60) as root:
        NewSite.sign_in(root, ROOT)
        yield root


class TestUsersWithAnAddressAndAUuid:
    def test_start_a_run_and_own_it(self, ann: httpx.Client) -> None:
        run = NewSite.finished(ann, _start(ann, "greet", name="Ann"))
        assert (run["status"], run["result"], run["owner"]) == ("success", "Hello, Ann.", ANN)

    def test_find_their_runs_by_name(self, client: httpx.Client, ann: httpx.Client) -> None:
        id = _start(ann, "greet", name="Ann")
        assert id in [run["id"] for run in ann.get("runs", params={"owner": ANN}).json()["results"]]
        assert ann.get("runs", params={"owner": BEN}).json()["results"] == []
        assert client.get(f"runs/{id}", headers=_token(client, BEN)).status_code == 404

    def test_stop_a_run(self, ann: httpx.Client) -> None:
        id = _start(ann, "wait")
        answer = ann.post(f"runs/{id}/stop?wait=30", json={"reason": "enough"})
        run = answer.json()
        assert (run["status"], run["stop"]["requested_by"]) == ("stopped", ANN), run

    def test_stop_all_of_an_owner(self, ann: httpx.Client) -> None:
        ids = {_start(ann, "wait") for _ in range(3)}
        answer = ann.post("runs/stop", json={"filter": {"owner": ANN}})
        assert {one["id"] for one in answer.json()["outcomes"]} == ids
        assert {NewSite.finished(ann, id)["status"] for id in ids} == {"stopped"}

    def test_have_a_data_store_quotas_and_an_event_stream(self, ann: httpx.Client) -> None:
        id = _start(ann, "greet", name="Ann")
        NewSite.finished(ann, id)
        used = {name: quota["used"] for name, quota in ann.get("quotas").json().items()}
        assert used["data_store_keys"] == 2, "greeted and beat"
        accept = {"Accept": "text/event-stream"}
        assert "event: end" in ann.get(f"runs/{id}/events", headers=accept).text

    def test_have_usage_that_measuring_confirms(self, site: NewSite) -> None:
        said = site.shell(
            "import time\n"
            "from halting.runs.models import OwnerUsage as U\n"
            "from halting.runs.quotas.keeper import measure\n"
            "def stored():\n"
            "    return list(U.objects.order_by('pk').values_list('stored_bytes', flat=True))\n"
            "for _ in range(30):\n"
            "    before, _, after = stored(), measure(), stored()\n"
            "    if before == after != [] and all(after):\n"
            "        print('confirmed')\n"
            "        break\n"
            "    time.sleep(1)  # the server adds what the runs before wrote within a second\n"
        )
        assert "confirmed" in said

    def test_have_pages(self, site: NewSite, ann: httpx.Client) -> None:
        id = _start(ann, "greet", name="Ann")
        assert set(_pages(site, ANN, id).values()) == {200}
        assert set(_pages(site, ROOT, id).values()) == {200}

    def test_are_found_in_the_admin(self, client: httpx.Client, ann: httpx.Client) -> None:
        run = NewSite.finished(ann, _start(ann, "greet", name="Ann"))
        with _root(client) as root:
            for address in (
                f"runrecord/?owner={ANN}",
                f"runrecord/?q={ANN}",
                f"runrecord/{run['id']}/change/",
                "ownerusage/?o=1",
                f"ownerusage/?q={ANN}",
                f"datastoreentry/?owner={ANN}",
            ):
                page = root.get(f"admin/runs/{address}")
                assert page.status_code == 200, address
                assert ANN in page.text, address
            for address in (f"apitoken/?q={ANN}", "auditentry/"):
                page = root.get(f"admin/identity/{address}")
                assert (page.status_code, ANN in page.text) == (200, True), address

    def test_are_stopped_in_the_admin_which_logs_it(
        self, site: NewSite, client: httpx.Client, ann: httpx.Client
    ) -> None:
        id = _start(ann, "wait")
        with _root(client) as root:
            form = {"csrfmiddlewaretoken": csrf_of(root)}
            headers = {"Referer": str(root.base_url)}
            answer = root.post(f"admin/runs/runrecord/{id}/stop/", data=form, headers=headers)
            assert answer.status_code == 302
            history = root.get(f"admin/runs/runrecord/{id}/history/")
        assert NewSite.finished(ann, id)["stop"]["requested_by"] == ROOT
        assert ROOT in history.text
        code = (
            "from halting.runs.identity.models import AuditEntry as E\n"
            "from people.models import Person\n"
            f"print({{str(p.pk) for p in Person.people.filter(email={ROOT!r})}} == "
            f"{{e.actor_id for e in E.objects.filter(act='stop', actor={ROOT!r})}})"
        )
        assert site.shell(code).split()[-1] == "True"

    def test_who_are_deactivated_have_their_runs_stopped(
        self, site: NewSite, client: httpx.Client
    ) -> None:
        with httpx.Client(base_url=client.base_url, headers=_token(client, BEN)) as ben:
            id = _start(ben, "wait")
            code = "from people.models import Person\np = Person.people.get(email={!r})\n"
            change = "p.is_active = {}\np.save()"
            site.shell(code.format(BEN) + change.format(False))
            try:
                assert ben.get("runs").status_code == 401
            finally:
                site.shell(code.format(BEN) + change.format(True))
            assert NewSite.finished(ben, id)["stop"]["via"] == "account"

    def test_have_commands(self, site: NewSite) -> None:
        said = site.manage("run_agent", "greet", "--input", "name=Ben", "--user", BEN)
        assert "Hello, Ben." in said
        said = site.manage("run_agent", "greet", "--user", "x", is_expected_to_fail=True)
        assert 'no user "x"' in said

    def test_are_deleted_in_the_sites_own_admin_when_their_runs_are_over(
        self, site: NewSite, client: httpx.Client
    ) -> None:
        site.add_user("eve@example.org")
        headers = _token(client, "eve@example.org")
        with httpx.Client(base_url=client.base_url, headers=headers, timeout=60) as eve:
            NewSite.finished(eve, _start(eve, "greet", name="Eve"))
            id = _start(eve, "wait")
            key = site.shell(
                "from halting.runs.quotas.keeper import measure\nmeasure()\n"  # has a usage, too
                "from people.models import Person\n"
                "print(Person.people.get(email='eve@example.org').pk)"
            ).split()[-1]
            with _root(client) as root:
                form = {"csrfmiddlewaretoken": csrf_of(root), "post": "yes"}
                referer = {"Referer": str(root.base_url)}
                address = f"admin/people/person/{key}/delete/"
                assert root.post(address, data=form, headers=referer).status_code == 403
                assert eve.post(f"runs/{id}/stop?wait=30").status_code == 200
                assert root.post(address, data=form, headers=referer).status_code == 302
            assert eve.get("runs").status_code == 401

    def test_are_deleted_with_what_they_own(self, site: NewSite) -> None:
        site.manage("run_agent", "greet", "--input", "name=Cat", "--user", ROOT)
        code = (
            "from people.models import Person\nfrom halting.runs.models import RunRecord as R\n"
            "dan = Person.people.create_user('dan@example.org')\n"
            f"R.objects.filter(owner__email={ROOT!r}).update(owner=dan)\ndan.delete()\n"
            "print('left', R.objects.filter(owner=dan.pk).count())"
        )
        assert "left 0" in site.shell(code)


def test_limits_for_each_owner_are_counted_by_any_key(tmp_path: Path, package: Path) -> None:
    site = site_of_people(tmp_path, package, "Person", 'RUNS = {"MAX_PER_OWNER": 1}\n')
    site.manage("migrate", "-v0")
    site.add_user(ANN)
    with site.served() as client:
        client.headers.update(_token(client, ANN))
        first, second = _start(client, "wait"), _start(client, "wait")
        client.post(f"runs/{first}/stop?wait=30")
        client.post(f"runs/{second}/stop?wait=30")
        runs = [NewSite.finished(client, id) for id in (first, second)]
    assert runs[1]["started_at"] is None or runs[0]["finished_at"] <= runs[1]["started_at"]


def test_users_without_permissions_and_flags_run_agents(tmp_path: Path, package: Path) -> None:
    phone = "+49 30 " + "1" * 200
    site = site_of_people(tmp_path, package, "Subscriber")
    site.replace("mysite/settings.py", "'django.contrib.admin',", "")
    site.replace("mysite/urls.py", "path('admin/', admin.site.urls),", "")
    site.manage("migrate", "-v0")
    site.add_user(phone)
    with site.served() as client:
        client.headers.update(_token(client, phone))
        run = NewSite.finished(client, _start(client, "greet", name="Sam"))
        assert (run["status"], run["owner"]) == ("success", phone)
        id = _start(client, "wait")
        assert client.post(f"runs/{id}/stop?wait=30").json()["stop"]["requested_by"] == phone
        forbidden = client.post(
            "runs", json={"agent": "greet", "input": {"name": "Sam"}, "priority": 9}
        )
        assert forbidden.status_code == 403
        assert set(_pages(site, phone, id).values()) == {200}
        assert not [line for line in client.log if "rror" in line]  # type: ignore[attr-defined]
