"""A fresh site of ``django-admin startproject`` that Halting is installed into.

The site uses the package as the wheel has it, below ``halting``, written once for a session of
tests. The lines that a person adds are those of ``docs/installing.md``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.core.management import call_command

from .processes import Process, run_manage, start_manage

__all__ = [
    "CHECKOUT",
    "PASSWORD",
    "NewSite",
    "documented_layer",
    "documented_lines",
    "postgres_settings",
    "write_package",
]

CHECKOUT = Path(__file__).resolve().parents[2]
_SECONDS = 60.0
PASSWORD = "correct horse battery staple"


def write_package(target: Path) -> Path:
    """Write the package ``halting`` into a folder, for PYTHONPATH; return the folder."""
    path = CHECKOUT / "package" / "rename.py"
    spec = importlib.util.spec_from_file_location("rename", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_package(CHECKOUT, target)
    return target


def documented_lines(file: str) -> str:
    """Return what docs/installing.md adds to ``settings.py``, ``urls.py`` or ``asgi.py``."""
    text = (CHECKOUT / "docs" / "installing.md").read_text()
    found = re.search(rf"`mysite/{re.escape(file)}`[^`]*```python\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/installing.md shows no lines of {file}"
    return found[1]


def documented_layer() -> str:
    """Return the channel layer of several processes, as docs/installing.md has it."""
    text = (CHECKOUT / "docs" / "installing.md").read_text()
    found = re.search(r"```python\n(CHANNEL_LAYERS = .*?\n\}\n)", text, re.DOTALL)
    assert found, "docs/installing.md shows no layer for several processes"
    return found[1]


def postgres_settings(url: str, options: str = "") -> str:
    """Return the settings of a database; ``options`` are more items of its dict."""
    parts = urlsplit(url)
    return (
        'DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", '
        f'"NAME": {parts.path[1:]!r}, "HOST": {parts.hostname!r}, "PORT": {parts.port or 5432}, '
        f'"USER": {parts.username!r}, "PASSWORD": {parts.password or ""!r}{options}}}}}\n'
    )


class NewSite:
    """A site in a folder of its own, on SQLite unless its settings say otherwise.

    Args:
        folder: an empty one.
        package: where ``halting`` can be imported from; None if it is installed.
        settings: added at the end of settings.py, after the documented lines.
        python: with Django; this process's by default.
    """

    def __init__(
        self,
        folder: Path,
        package: Path | None,
        *,
        settings: str = "",
        python: str = sys.executable,
    ) -> None:
        self.folder = folder
        self.python = python
        self.package = package
        ours = ("DJANGO_", "RUNS_", "DATABASE_", "REDIS_", "LLM_")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        }
        folder.mkdir(parents=True, exist_ok=True)
        if package is None:
            self.run("-m", "django", "startproject", "mysite", ".")
        else:  # the same, a second faster
            call_command("startproject", "mysite", str(folder))
        self.append("mysite/settings.py", documented_lines("settings.py"))
        self.append("mysite/urls.py", documented_lines("urls.py"))
        self.write("mysite/asgi.py", documented_lines("asgi.py"))
        self.append("mysite/settings.py", settings)

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def append(self, path: str, text: str) -> None:
        with (self.folder / path).open("a") as file:
            file.write(f"\n{text}")

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        self.write(path, text.replace(old, new))

    def add_agents(self, text: str, app: str = "work") -> None:
        """Add an app whose ``agents.py`` has the text."""
        self.write(f"{app}/__init__.py", "")
        self.write(f"{app}/agents.py", text)
        self.append("mysite/settings.py", f'INSTALLED_APPS = [*INSTALLED_APPS, "{app}"]\n')

    def run(self, *arguments: str, is_expected_to_fail: bool = False) -> str:
        """Run Python in the site's folder, and return what it wrote."""
        done = subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) is is_expected_to_fail, output
        return output

    def manage(self, *arguments: str, is_expected_to_fail: bool = False) -> str:
        if self.package is None:
            return self.run("manage.py", *arguments, is_expected_to_fail=is_expected_to_fail)
        done = run_manage(
            *arguments,
            environment=self.environment,
            timeout=_SECONDS,
            folder=self.folder,
            paths=[self.package],
        )
        output = done.stdout + done.stderr
        assert (done.returncode != 0) is is_expected_to_fail, output
        return output

    def shell(self, code: str) -> str:
        """Run code with Django set up."""
        return (
            self.manage("shell", "--no-imports", "-c", code)
            if _has_no_imports()
            else (self.manage("shell", "-c", code))
        )

    def add_user(self, name: str, *, is_superuser: bool = False) -> None:
        kind = "create_superuser" if is_superuser else "create_user"
        self.shell(
            "from django.contrib.auth import get_user_model\n"
            f"get_user_model()._default_manager.{kind}({name!r}, password={PASSWORD!r})"
        )

    def token(self, name: str) -> str:
        """Return an API token of a user."""
        return self.manage("drf_create_token", name).split()[2]

    @contextmanager
    def served(self, *, prefix: str = "/") -> Iterator[httpx.Client]:
        """Serve the site with ``runserver``; yield a client without an identity.

        ``client.log`` has what the server has written.
        """
        arguments = ["runserver", "--noreload", "127.0.0.1:0"]
        environment = {**self.environment, "PYTHONUNBUFFERED": "1"}
        output, theirs = os.pipe()
        try:
            server = self._start(arguments, environment, theirs)
        finally:
            os.close(theirs)
        log: list[str] = []
        reader = threading.Thread(target=_read, args=(output, log), daemon=True)
        reader.start()
        try:
            address = _address(server, log)
            with httpx.Client(
                base_url=f"{address}{prefix.lstrip('/')}", timeout=_SECONDS
            ) as client:
                client.log = log  # type: ignore[attr-defined]
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
                raise
            reader.join(_SECONDS)

    def _start(self, arguments: list[str], environment: dict[str, str], output: int) -> Process:
        if self.package is not None:
            return start_manage(
                *arguments,
                environment=environment,
                stdout=output,
                folder=self.folder,
                paths=[self.package],
            )
        return subprocess.Popen(
            [self.python, "manage.py", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    @staticmethod
    def sign_in(client: httpx.Client, name: str, *, at: str = "/admin/login/") -> None:
        """Sign in with Django's form, at an address of the site."""
        page = client.get(f"{_root(client)}{at}")
        assert page.status_code == 200, page.text
        form = {"username": name, "password": PASSWORD, "csrfmiddlewaretoken": csrf_of(client)}
        done = client.post(f"{_root(client)}{at}", data=form, headers={"Referer": str(page.url)})
        assert done.status_code == 302, done.text

    @staticmethod
    def finished(client: httpx.Client, id: str) -> Any:
        """Wait until a run is over, and return it."""
        due = time.monotonic() + _SECONDS
        while time.monotonic() < due:
            run = client.get(f"runs/{id}").json()
            if run["status"] in {"success", "error", "stopped"}:
                return run
            time.sleep(0.05)
        raise TimeoutError(run)


def csrf_of(client: httpx.Client) -> str:
    return client.cookies.get("csrftoken") or ""


def _root(client: httpx.Client) -> str:
    return f"{client.base_url.scheme}://{client.base_url.netloc.decode()}"


def _has_no_imports() -> bool:
    from django import VERSION

    return VERSION >= (5, 2)


def _read(output: int, log: list[str]) -> None:
    with os.fdopen(output, errors="replace") as lines:
        for line in lines:
            log.append(line)


def _address(server: Process, log: list[str]) -> str:
    due = time.monotonic() + _SECONDS
    while time.monotonic() < due:
        if found := re.search(r"http://\S+/", "".join(log)):
            return found[0]
        if server.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the site does not serve:\n{''.join(log)}")
