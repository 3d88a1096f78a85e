"""A site whose tasks are Celery's: they start, follow and stop runs, and agents queue tasks.

Celery's worker is a process of its own, which serves nothing and executes no agent. Its tasks run
in processes that it has forked after Django was set up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.databases import create_database, drop_database
from tests.support.new_site import NewSite, documented_layer, postgres_settings
from tests.support.user_models import AGENTS

_SECONDS = 60.0

_CELERY = """
import os
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
_TASKS = """
import pathlib

from celery import shared_task
from django.contrib.auth.models import User
from django.db import transaction

from halting import runs


def _note(name, text):
    path = pathlib.Path(name)
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


@shared_task
def greet(name):
    run = runs.start("greet", {"name": name}, owner=User.objects.get())
    run = runs.wait(run, timeout=50)
    types = [event["type"] for event in runs.stream(run)]
    _note("greeted", f"{run.status} {run.result} {types[-1]}")


@shared_task(bind=True, max_retries=3)
def begin(self):
    with transaction.atomic():
        run = runs.start("wait", owner=User.objects.get(), idempotency_key=self.request.id)
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    _note("begun", str(run.pk))


@shared_task
def cancel(id):
    run = runs.stop(id, reason="the order was cancelled")
    _note("cancelled", f"{run.stop_requested} {runs.wait(run, timeout=50).status}")


@shared_task
def tell(article):
    _note("told", article)


@shared_task
def count(id):
    _note("finished", id)
"""
_ORDER = """
from .tasks import tell


@agent("order")
async def order(tools: Tools, article: str) -> str:
    await asyncio.to_thread(tell.delay, article)
    return "ordered"
"""
_APPS = """
from django.apps import AppConfig
from halting.runs.signals import run_finished


class WorkConfig(AppConfig):
    name = "work"

    def ready(self):
        run_finished.connect(_queue_count, weak=False)


def _queue_count(run, status, **kwargs):
    from .tasks import count

    if run.agent == "order":
        count.delay(str(run.pk))
"""
_IN_A_FOLDER = """
CELERY_BROKER_URL = "filesystem://"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    name: str(BASE_DIR / "queue") for name in ("data_folder_in", "data_folder_out")
} | {"control_folder": str(BASE_DIR / "control")}
"""


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param(
            "postgres", marks=[pytest.mark.postgres, pytest.mark.redis, pytest.mark.thorough]
        ),
    ],
)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, package: Path
) -> Iterator[NewSite]:
    """On SQLite with a broker in files, or on PostgreSQL with Redis as broker and layer."""
    url = create_database(os.environ["DATABASE_URL"]) if request.param == "postgres" else ""
    settings = _IN_A_FOLDER
    if url:
        name = url.rpartition("/")[2]
        redis = os.environ["REDIS_URL"]
        settings = (
            postgres_settings(url)
            + documented_layer().replace("redis://127.0.0.1:6379/0", redis)
            + f'CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] = {name!r}\n'
            + f"CELERY_BROKER_URL = {redis!r}\nCELERY_TASK_DEFAULT_QUEUE = {name!r}\n"
        )
    folder = tmp_path_factory.mktemp("site")
    site = NewSite(folder, package, settings=settings)
    site.add_agents(AGENTS + _ORDER)
    site.write("work/tasks.py", _TASKS)
    site.write("work/apps.py", _APPS)
    site.write("mysite/celery.py", _CELERY)
    site.write("mysite/__init__.py", "from .celery import app\n")
    (folder / "queue").mkdir()
    (folder / "control").mkdir()
    try:
        site.manage("migrate", "-v0")
        site.add_user("ann", is_superuser=True)
        yield site
    finally:
        if url:
            drop_database(url)


@pytest.fixture(scope="module")
def client(site: NewSite) -> Iterator[httpx.Client]:
    """The site's user, while the site serves and Celery's worker runs its tasks."""
    token = site.token("ann")
    with _worker(site), site.served() as client:
        client.headers["Authorization"] = f"Token {token}"
        yield client


@contextmanager
def _worker(site: NewSite) -> Iterator[None]:
    with (site.folder / "celery.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "mysite", "worker", "-c", "2", "-l", "info"],
            cwd=site.folder,
            env=site.environment | {"PYTHONPATH": str(site.package)},
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            worker.terminate()
            try:
                worker.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
                raise


@pytest.fixture
def queue(site: NewSite) -> Callable[..., str]:
    """Queue a task, and return what it has written into a file."""

    def queue(task: str, *arguments: str, writes: str) -> str:
        (site.folder / writes).unlink(missing_ok=True)
        site.shell(f"from work import tasks\ntasks.{task}.delay(*{arguments!r})")
        return _written(site, writes)

    return queue


def _written(site: NewSite, name: str) -> str:
    due = time.monotonic() + _SECONDS
    while time.monotonic() < due:
        if (site.folder / name).exists():
            return (site.folder / name).read_text()
        time.sleep(0.05)
    raise AssertionError((site.folder / "celery.log").read_text())


@pytest.mark.usefixtures("client")
def test_a_task_starts_a_run_waits_for_it_and_reads_its_events(queue: Callable[..., str]) -> None:
    assert queue("greet", "Ann", writes="greeted") == "success Hello, Ann. agent_end"


def test_a_task_that_is_tried_again_starts_one_run_and_another_stops_it(
    client: httpx.Client, queue: Callable[..., str]
) -> None:
    id = queue("begin", writes="begun")
    runs = client.get("runs", params={"agent": "wait"}).json()["results"]
    assert [run["id"] for run in runs] == [id]
    assert queue("cancel", id, writes="cancelled") == "True stopped"
    stop = client.get(f"runs/{id}").json()["stop"]
    assert (stop["reason"], stop["requested_by"]) == ("the order was cancelled", None)


def test_agents_and_receivers_of_signals_queue_tasks(site: NewSite, client: httpx.Client) -> None:
    id = client.post("runs", json={"agent": "order", "input": {"article": "tea"}}).json()["id"]
    assert NewSite.finished(client, id)["status"] == "success"
    assert (_written(site, "told"), _written(site, "finished")) == ("tea", id)


@pytest.mark.usefixtures("client")
def test_neither_process_has_logged_an_error(site: NewSite, client: httpx.Client) -> None:
    log: list[str] = client.log  # type: ignore[attr-defined]
    written = [*log, *(site.folder / "celery.log").read_text().splitlines()]
    assert not [line for line in written if "ERROR" in line or "Traceback" in line]
