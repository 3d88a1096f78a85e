"""The examples for operators name only variables, commands, arguments and files that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import yaml
from django.core.management import get_commands, load_command_class

from runs.conf import Options
from tests.support.server import eventually
from tests.support.services import PrivatePostgres

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
        mounted = [
            volume.partition(":")[0]
            for service in COMPOSE["services"].values()
            for volume in service.get("volumes", ())
        ]
        files = [path for path in mounted if path.startswith("./")]
        assert len(files) == 3
        assert all((ROOT / path).is_file() for path in files)

    @pytest.mark.parametrize("name", COMPOSE["services"])
    def test_confines_each_container(self, name: str) -> None:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
        # Only nginx needs any: its first process changes to another user.
        assert ("cap_add" in service) == (name == "nginx")
        assert "privileged" not in service

    def test_keeps_networks_apart(self) -> None:
        of = {name: set(service["networks"]) for name, service in COMPOSE["services"].items()}
        assert {
            name for name, one in COMPOSE["networks"].items() if (one or {}).get("internal")
        } == {
            "front",
            "data",
        }
        assert of["nginx"] == {"edge", "front"}, "it reaches neither PostgreSQL nor Redis"
        assert of["postgres"] == of["redis"] == of["migrate"] == {"data"}
        assert of["web1"] == of["web2"] == of["web3"] == {"front", "data"}
        assert all(of[name] == {"data", "outside"} for name in OURS if name.startswith("worker"))
        published = [port for one in COMPOSE["services"].values() for port in one.get("ports", ())]
        assert published == ["127.0.0.1:8080:8080"]

    def test_has_passwords_everywhere_and_shows_none_as_an_argument(self) -> None:
        environment = OURS["web1"]["environment"]
        for name, required in (
            ("DATABASE_URL", "HALTING_DATABASE_PASSWORD"),
            ("REDIS_URL", "REDIS_PASSWORD"),
        ):
            assert f":${{{required}:?" in environment[name]
        redis = COMPOSE["services"]["redis"]
        assert "requirepass $$REDISCLI_AUTH" in redis["command"][-1]
        assert redis["environment"]["REDISCLI_AUTH"].startswith("${REDIS_PASSWORD:?")
        for service in COMPOSE["services"].values():
            assert "PASSWORD" not in str(service.get("command"))
        # The password of the superuser is PostgreSQL's own.
        assert "POSTGRES_PASSWORD" not in str(list(OURS.values()))

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

    @pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
    def test_it_may_do_what_it_needs_and_no_more(self, unit: Path) -> None:
        """``systemd-analyze security --offline=true`` gives 1.5 with these; it may be missing."""
        given = re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE)
        for line in HARDENING.split():
            name, _, value = line.partition("=")
            assert (name, value.replace("+", " ")) in given, line
        refused = " ".join(value for name, value in given if name == "SystemCallFilter")
        assert "@resources" not in refused, "programs that read documents set limits of their own"
        # A worker reads /proc/sys/kernel/random/boot_id.
        assert "ProcSubset" not in dict(given)


# "+" is a space.
HARDENING = """
NoNewPrivileges=yes CapabilityBoundingSet= AmbientCapabilities= UMask=0077 ProtectSystem=strict
ProtectHome=yes ProtectProc=invisible PrivateTmp=yes PrivateDevices=yes DevicePolicy=closed
ProtectClock=yes ProtectHostname=yes ProtectControlGroups=yes ProtectKernelLogs=yes
ProtectKernelModules=yes ProtectKernelTunables=yes RestrictAddressFamilies=AF_INET+AF_INET6+AF_UNIX
RestrictNamespaces=yes RestrictRealtime=yes RestrictSUIDSGID=yes RemoveIPC=yes LockPersonality=yes
MemoryDenyWriteExecute=yes SystemCallArchitectures=native SystemCallFilter=@system-service
SystemCallFilter=~@privileged
"""


class TestNginx:
    def test_its_processes_are_those_of_systemd(self) -> None:
        example = (DEPLOY / "nginx" / "halting.conf").read_text()
        assert re.findall(r"server 127\.0\.0\.1:(\d+)", example) == ["8001", "8002", "8003"]

    def test_its_processes_are_those_of_compose(self) -> None:
        example = (DEPLOY / "nginx" / "compose.conf").read_text()
        servers = re.findall(r"^ *server (\w+):(\d+) ", example, re.MULTILINE)
        assert servers == [("web1", "8000"), ("web2", "8000"), ("web3", "8000")]

    def test_stops_and_nothing_else_that_halting_serves_are_without_a_limit(self) -> None:
        example = (DEPLOY / "nginx" / "halting-locations.conf").read_text()
        locations = re.findall(r"^location (.+?) \{\n(.*?)^\}", example, re.MULTILINE | re.DOTALL)
        unlimited = [
            where for where, what in locations if "proxy_pass" in what and "limit_req" not in what
        ]
        assert unlimited == ["~ ^/runs/(?:[^/]+/)?stop/?$"]
        for name in ("halting.conf", "compose.conf"):
            zones = re.findall(r"zone=(halting_\w+):", (DEPLOY / "nginx" / name).read_text())
            assert set(re.findall(r"(?:zone=|limit_conn )(halting_\w+)", example)) == set(zones)

    def test_an_idle_connection_is_let_go_before_the_server_closes_it(self) -> None:
        from runs.ops.serving import configuration

        for name in ("halting.conf", "compose.conf"):
            example = (DEPLOY / "nginx" / name).read_text()
            found = re.search(r"^ *keepalive_timeout (\d+)s;", example, re.MULTILINE)
            assert found is not None
            assert int(found[1]) < configuration("project.asgi.application").timeout_keep_alive


class TestRedis:
    def test_its_command_starts_one_with_a_password(self, tmp_path: Path) -> None:
        """The command of compose.yaml, with another port, in a shell of this machine."""
        if shutil.which("redis-server") is None:
            pytest.skip("needs redis-server")
        shell, option, script = COMPOSE["services"]["redis"]["command"]
        path = tmp_path / "redis.sock"
        script = script.replace("$$", "$").replace(
            "requirepass", f"port 0\nunixsocket {path}\nrequirepass"
        )
        process = subprocess.Popen(
            [shell, option, script],
            cwd=tmp_path,
            env=os.environ | {"REDISCLI_AUTH": "hunter2"},
            stdout=subprocess.DEVNULL,
        )
        try:
            eventually(path.exists, "it listens")
            stranger = redis.Redis(unix_socket_path=str(path))
            with stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
            with redis.Redis(unix_socket_path=str(path), password="hunter2") as client:
                assert client.config_get("save")["save"] == ""
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"redis-server" in arguments
            assert b"hunter2" not in arguments
        finally:
            process.terminate()
            process.wait(10)


class TestPostgres:
    def test_the_role_of_halting_owns_its_database_and_is_no_superuser(
        self, private_postgres: PrivatePostgres
    ) -> None:
        server = urlsplit(private_postgres.new_database())
        done = subprocess.run(
            ["sh", str(DEPLOY / "postgres" / "create-halting.sh")],
            env=os.environ
            | {
                "PATH": f"{os.environ['PATH']}{os.pathsep}{_folder_of_psql()}",
                "PGHOST": "127.0.0.1",
                "PGPORT": str(server.port),
                "HALTING_DATABASE_PASSWORD": 'it\'s a "password"',
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with psycopg.connect(f"postgres://halting@127.0.0.1:{server.port}/halting") as mine:
            rights = mine.execute(
                "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles "
                "WHERE rolname = current_user"
            ).fetchone()
            assert rights == (False, False, False, False)
            mine.execute("CREATE TABLE it_may_make_tables (id int)")


def _folder_of_psql() -> str:
    found = shutil.which("psql") or next(iter(sorted(glob("/usr/lib/postgresql/*/bin/psql"))), "")
    return str(Path(found).parent)


class TestRequirements:
    @pytest.mark.parametrize("name", [path.name for path in ROOT.glob("requirements*.txt")])
    def test_each_package_has_its_hashes(self, name: str) -> None:
        """``make lock`` writes them."""
        lines = (ROOT / name).read_text().splitlines()
        packages = [at for at, line in enumerate(lines) if re.match(r"[a-z0-9]", line)]
        assert len(packages) > 40
        for at in packages:
            assert "==" in lines[at]
            assert lines[at + 1].startswith("    --hash=sha256:"), lines[at]

    def test_all_who_install_them_ask_for_the_hashes(self) -> None:
        for name in ("Makefile", "Dockerfile", "docs/deploying.md", ".github/workflows/ci.yml"):
            for line in (ROOT / name).read_text().splitlines():
                if "pip install" in line and ".txt" in line:
                    assert "--require-hashes" in line, (name, line)
        assert (ROOT / "Makefile").read_text().count("--generate-hashes") == 4


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
