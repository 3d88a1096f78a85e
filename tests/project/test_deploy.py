"""The examples for operators name only variables, commands, arguments and files that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from runs.conf import Options

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
VARIABLES = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {name: one for name, one in COMPOSE["services"].items() if one.get("image") == "halting"}
UNITS = sorted((DEPLOY / "systemd").iterdir())

# How long a worker may take after RUNS_DRAIN_SECONDS to unwind runs, cancel them, write logs.
END_SECONDS = 5 + 5 + 10


def _assert_starts(arguments: list[str]) -> None:
    """Check that ``manage.py`` has this command, and that the command has these arguments."""
    name, *rest = arguments
    load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args(rest)


def _variables_in(example: Path) -> dict[str, str]:
    lines = re.findall(r"^([A-Z_]+)=(.*)$", example.read_text(), re.MULTILINE)
    assert lines
    return dict(lines)


def _seconds(text: str) -> int:
    return int(text.removesuffix("s"))


class TestCompose:
    def test_has_three_web_processes_four_workers_and_what_they_need(self) -> None:
        services = COMPOSE["services"]
        webs = {"web1", "web2", "web3"}
        workers = {"worker1", "worker2", "worker3", "worker4"}
        assert webs | workers | {"migrate"} == set(OURS)
        assert {"postgres", "redis", "nginx"} <= set(services)

    def test_has_the_image_made_once_and_pulls_none_of_that_name(self) -> None:
        assert [name for name, service in OURS.items() if "build" in service] == ["migrate"]
        assert {service["pull_policy"] for service in OURS.values()} == {"never"}

    @pytest.mark.parametrize("name", OURS)
    def test_names_variables_and_commands_that_there_are(self, name: str) -> None:
        assert set(OURS[name]["environment"]) <= VARIABLES
        _assert_starts(OURS[name]["command"])

    @pytest.mark.parametrize("name", [name for name in OURS if name != "migrate"])
    def test_asks_each_process_where_it_listens_and_lets_it_end(self, name: str) -> None:
        service = OURS[name]
        port = re.search(r":(\d+)", " ".join(service["command"]))
        assert port is not None
        assert f"127.0.0.1:{port[1]}/health/ready" in service["healthcheck"]["test"][-1]
        compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
        assert service["environment"]["RUNS_EMBEDDED_WORKER"] == "0"
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        if name.startswith("worker"):
            drain = float(service["environment"]["RUNS_DRAIN_SECONDS"])
            assert _seconds(service["stop_grace_period"]) > drain + END_SECONDS

    def test_mounts_files_that_there_are(self) -> None:
        for volume in COMPOSE["services"]["nginx"]["volumes"]:
            assert (ROOT / volume.partition(":")[0]).is_file()

    def test_asks_for_what_its_example_has(self) -> None:
        text = (ROOT / "compose.yaml").read_text()
        asked = set(re.findall(r"\$\{([A-Z_]+)", text))
        assert asked == set(_variables_in(DEPLOY / "compose.env.example"))


class TestSystemd:
    def test_the_environment_is_known(self) -> None:
        given = _variables_in(DEPLOY / "halting.env.example")
        assert set(given) <= VARIABLES
        assert given["RUNS_EMBEDDED_WORKER"] == "0"

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
    def test_the_command_is_there_and_may_end(self, unit: Path) -> None:
        # Not configparser: a unit may have the same key twice.
        lines = re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE)
        values = dict(lines)
        _, found, command = values["ExecStart"].replace("%i", "1").partition(" manage.py ")
        assert found
        _assert_starts(command.split())
        assert values["KillSignal"] == "SIGTERM"
        if "runworker" in command:
            drain = float(_variables_in(DEPLOY / "halting.env.example")["RUNS_DRAIN_SECONDS"])
            assert drain == Options().drain_seconds
            assert _seconds(values["TimeoutStopSec"]) > drain + END_SECONDS


class TestNginx:
    def test_its_processes_are_those_of_systemd(self) -> None:
        example = (DEPLOY / "nginx" / "halting.conf").read_text()
        assert re.findall(r"server 127\.0\.0\.1:(\d+)", example) == ["8001", "8002", "8003"]

    def test_its_processes_are_those_of_compose(self) -> None:
        example = (DEPLOY / "nginx" / "compose.conf").read_text()
        servers = re.findall(r"^ *server (\w+):(\d+) ", example, re.MULTILINE)
        assert servers == [("web1", "8000"), ("web2", "8000"), ("web3", "8000")]

    def test_an_idle_connection_is_let_go_before_the_server_closes_it(self) -> None:
        from runs.ops.serving import configuration

        for name in ("halting.conf", "compose.conf"):
            example = (DEPLOY / "nginx" / name).read_text()
            found = re.search(r"^ *keepalive_timeout (\d+)s;", example, re.MULTILINE)
            assert found is not None
            assert int(found[1]) < configuration("project.asgi.application").timeout_keep_alive


def test_the_image_has_what_it_starts() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [start] = [line for line in lines if line.startswith("CMD")]
    _assert_starts(yaml.safe_load(start.removeprefix("CMD")))
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_page_for_operators_names_variables_and_commands_that_there_are() -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    ours = r"`((?:DJANGO|RUNS|LLM|DATABASE|REDIS|API|METRICS|LOG|FORWARDED)_[A-Z_]+)"
    named = set(re.findall(ours, page))
    assert named
    assert named <= VARIABLES, named - VARIABLES
    commands = set(re.findall(r"manage\.py (\w+)", page))
    assert commands <= set(get_commands())
    for path in re.findall(r"\]\(\.\./(deploy/[\w./@-]+|compose\.yaml|Dockerfile)\)", page):
        assert (ROOT / path).exists(), path
