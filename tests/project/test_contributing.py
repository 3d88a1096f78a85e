"""The pages for contributors, the hooks and the workflow name only things that exist."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HOOKS: list[dict[str, Any]] = [
    hook
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _job(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    return workflow["jobs"][name]


class TestWorkflow:
    job = _job("check-and-test")

    def test_each_supported_python_meets_each_django_that_it_can_run(self) -> None:
        matrix = self.job["strategy"]["matrix"]
        pairs = set(itertools.product(matrix["python"], matrix["django"]))
        excluded = {(one["python"], one["django"]) for one in matrix["exclude"]}
        assert excluded <= pairs
        pythons = ["3.11", "3.12", "3.13", "3.14"]
        assert pairs - excluded == {
            *((python, "5.2") for python in pythons),
            *((python, "6.0") for python in pythons[1:]),
        }

    def test_the_servers_are_where_the_tests_look_for_them(self) -> None:
        [test] = [step for step in self.job["steps"] if step.get("run") == "make test"]
        assert set(self.job["services"]) == {"postgres", "redis"}
        for name in ("DATABASE_URL", "REDIS_URL"):
            host = re.search(r"(\w+):\d+/", test["env"][name])
            assert host is not None
            assert host[1] in self.job["services"]
        assert test["env"]["REQUIRE_ALL"] == "1"

    def test_the_test_programs_are_those_of_the_ci_script(self) -> None:
        [install] = [step["run"] for step in self.job["steps"] if "apt-get" in step.get("run", "")]
        script = (ROOT / ".ci" / "run").read_text()
        for package in ("chromium-headless-shell", "nginx-light", "pgbouncer"):
            assert package in install
            assert package in script

    def test_the_frameworks_are_tested_in_a_job_of_their_own(self) -> None:
        [test] = [step for step in _job("frameworks")["steps"] if step.get("name") == "Test"]
        assert test == {
            "name": "Test",
            "env": {"REQUIRE_ALL": "1"},
            "run": "make test-frameworks",
        }

    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
    def test_each_target_of_make_is_there(self, path: Path) -> None:
        text = path.read_text()
        named = set(re.findall(r"\bmake ([a-z-]+)", text))
        assert {"check", "test"} <= named <= TARGETS
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


class TestHooks:
    def test_no_hook_repository_is_cloned(self) -> None:
        config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
        assert [repository["repo"] for repository in config["repos"]] == ["local"]
        assert {hook["language"] for hook in HOOKS} == {"system"}

    @pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
    def test_its_command_is_there(self, hook: dict[str, Any]) -> None:
        words = hook["entry"].split()
        if words[0] == "env":
            assert shutil.which("env")
            words = [word for word in words[1:] if "=" not in word]
        python, option, module, *arguments = words
        # The tests run in another environment on some machines: the module is what counts.
        assert (python, option) == (".venv/bin/python", "-m")
        assert find_spec(module)
        for argument in arguments:
            assert not argument.startswith("tests/") or (ROOT / argument).exists()

    @pytest.mark.parametrize("module", ["format", "check"])
    def test_ruff_takes_the_arguments(self, module: str, tmp_path: Path) -> None:
        [hook] = [hook for hook in HOOKS if hook["id"] == f"ruff-{module}"]
        file = tmp_path / "some.py"
        file.write_text("x = 1\n")
        command = [sys.executable, *hook["entry"].split()[1:], str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_for_contributors_name_files_and_targets_that_there_are() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md", "README.md"):
        text = (ROOT / name).read_text()
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert links
        paths = re.findall(
            r"`((?:\.ci|agents|runs|project|tests|deploy|bench|docs)/[\w./-]*)`", text
        )
        for path in (*links, *paths):
            assert (ROOT / path).exists(), f"{name}: {path}"
        assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= TARGETS


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text.splitlines()[0]
    assert "END OF TERMS AND CONDITIONS" in text
