"""From nothing to a stopped run, as a person does who has read docs/installing.md."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.new_site import CHECKOUT, NewSite

_SECONDS = 120
_LINES = 10

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    target = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--wheel-dir", str(target), str(CHECKOUT))
    (path,) = target.glob("halting-*.whl")
    return path


@pytest.mark.parametrize("version", ["this one", "3.13"])
@pytest.mark.thorough
def test_a_new_site_stops_a_run_within_two_minutes_and_ten_lines(
    wheel: Path, tmp_path: Path, version: str
) -> None:
    """Python 3.13 gets Django 6, where 3.11 gets Django 5.2.

    The two minutes are of processor time: a person's machine runs no other tests meanwhile.
    """
    began = _processor_seconds()
    base = sys.executable if version == "this one" else _find_python(version)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([base, "-m", "venv", tmp_path / "venv"], check=True)
    _pip("install", str(wheel), python=python)
    site = NewSite(tmp_path / "site", None, python=python)
    typed = ["startproject", "migrate", "createsuperuser", "runserver", *_changed(site)]
    site.replace(
        "mysite/settings.py", '"halting.runs",', '"halting.agents.samples", "halting.runs",'
    )
    assert len(typed) <= _LINES, "\n".join(typed)

    assert "no issues" in site.manage("check")
    site.manage("migrate", "-v0")
    site.add_user("ada", is_superuser=True)
    with site.served() as client:
        site.sign_in(client, "ada")
        assert client.get("app/").status_code == 200
        client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
        client.headers["Referer"] = str(client.base_url)
        text = " ".join(f"This is sentence {number}." for number in range(4000))
        body = {"agent": "summarise", "input": {"document": text}}
        run = client.post("runs", json=body).json()
        while client.get(f"runs/{run['id']}").json()["in_flight"] == []:
            time.sleep(0.05)
        assert client.post(f"runs/{run['id']}/stop", json={}).status_code == 202
        stopped = site.finished(client, run["id"])
    assert stopped["status"] == "stopped"
    assert stopped["stop"]["calls_started_after_acknowledgement"] == 0
    assert _processor_seconds() - began < _SECONDS


def _changed(site: NewSite) -> list[str]:
    """Return the lines in which the site differs from a fresh one of Django's."""
    fresh = site.folder.parent / "fresh"
    fresh.mkdir()
    subprocess.run(
        [site.python, "-m", "django", "startproject", "mysite", "."], cwd=fresh, check=True
    )
    changed = []
    for name in ("settings", "urls", "asgi"):
        # Django and the page quote in different ways.
        old, new = (
            (folder / "mysite" / f"{name}.py").read_text().replace("'", '"').splitlines()
            for folder in (fresh, site.folder)
        )
        changed += [line for line in new if line not in old and not _is_drawn(line)]
    return changed


def _find_python(version: str) -> str:
    """Return a Python of this version, on the path or of pyenv."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = shutil.which(f"python{version}") if not of_pyenv else str(of_pyenv[-1])
    if found is None:
        pytest.skip(f"needs Python {version}")
    return found


def _is_drawn(line: str) -> bool:
    """Tell whether Django writes another line each time, or none."""
    return not line or line.startswith("SECRET_KEY")


def _pip(*arguments: str, python: str = sys.executable) -> None:
    subprocess.run(
        [python, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments],
        check=True,
        timeout=_SECONDS,
    )


def _processor_seconds() -> float:
    """Return the processor time of all processes that this one has started and seen to end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
