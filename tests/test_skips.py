"""No skip is silent: these tests run small suites with the plugins of conftest.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.suite import run_suite

_SKIPS = {
    "mark": "@pytest.mark.skip(reason='some reason')\ndef test_it(): pass",
    "call": "def test_it(): pytest.skip('some reason')",
    "fixture": "@pytest.fixture\ndef f(): pytest.skip('some reason')\ndef test_it(f): pass",
    "module": "pytest.skip('some reason', allow_module_level=True)",
    "importorskip": "pytest.importorskip('no_such_module', reason='some reason')",
}


def test_any_skip_is_named_loudly(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "def test_ok(): pass", *_SKIPS.values())
    assert f"{len(_SKIPS)} skipped, NOT TESTED" in done.stdout
    assert done.stdout.count("some reason") == len(_SKIPS)
    assert done.returncode == 0


@pytest.mark.parametrize("source", [_SKIPS["mark"], _SKIPS["module"]], ids=["test", "module"])
def test_a_skip_fails_when_all_is_required(tmp_path: Path, source: str) -> None:
    done = run_suite(tmp_path, source, REQUIRE_ALL="1")
    assert "1 skipped, and REQUIRE_ALL says that none may be" in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    # The last line of the output is pytest's own.
    assert "1 skipped in" in done.stdout.strip().splitlines()[-1]


def test_without_a_skip_the_session_succeeds(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "def test_it(): pass", REQUIRE_ALL="1")
    assert done.returncode == 0, done.stdout
    assert "NOT TESTED" not in done.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    source = "@pytest.mark.xfail\ndef test_it(): assert False"
    assert run_suite(tmp_path, source, REQUIRE_ALL="1").returncode == 0


def test_a_failure_is_still_a_failure(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "def test_it(): assert False", _SKIPS["mark"], REQUIRE_ALL="1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("marker", "environment"),
    [
        ("postgres", {"DATABASE_URL": "postgres://postgres@127.0.0.1:5432/test"}),
        ("redis", {"REDIS_URL": "redis://127.0.0.1:6379/0"}),
    ],
)
@pytest.mark.thorough
def test_a_marked_test_runs_if_its_server_is_named(
    tmp_path: Path, marker: str, environment: dict[str, str]
) -> None:
    source = f"@pytest.mark.{marker}\ndef test_it(): pass"
    assert f"needs {'PostgreSQL' if marker == 'postgres' else 'Redis'}" in (
        run_suite(tmp_path, source).stdout
    )
    assert "1 passed" in run_suite(tmp_path, source, **environment).stdout


class TestSessions:
    """`python -m tests`: the sessions that it starts, and the status that it returns."""

    LONG = "tests/walks tests/attacks"
    WORKER = "tests/runs/actions tests/runs/management tests/runs/worker"
    RUNS = "tests/runs " + " ".join(f"--ignore={folder}" for folder in WORKER.split())
    SITES = "tests/installed tests/project"
    APART = (LONG, SITES, "tests/browser", WORKER, RUNS, "tests/agents")
    OTHERS = (
        "--ignore=tests/walks --ignore=tests/attacks --ignore=tests/installed "
        "--ignore=tests/project --ignore=tests/browser --ignore=tests/runs --ignore=tests/agents"
    )

    @pytest.fixture
    def sessions(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
        from tests import __main__ as runner

        ran: list[tuple[list[str], dict[str, str]]] = []

        def fake(arguments: list[str], environment: dict[str, str]) -> int:
            ran.append((arguments, environment))
            return self.statuses.pop(0)

        def fake_lane(session: tuple[list[str], dict[str, str]]) -> int:
            lanes.append(session)
            return self.lane_statuses.get(" ".join(session[0]), 0)

        monkeypatch.setattr(runner, "_pytest", fake)
        monkeypatch.setattr(runner, "_shown_at_its_end", fake_lane)
        lanes = self.lanes = []
        self.lane_statuses = {}
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.delenv("REDIS_URL", raising=False)
        self.main = runner.main
        return ran

    statuses: list[int]
    lanes: list[tuple[list[str], dict[str, str]]]
    lane_statuses: dict[str, int]

    def _lanes(self) -> dict[str, dict[str, str]]:
        """Return the sessions that run at the same time as others, with their environments."""
        return {" ".join(arguments): environment for arguments, environment in self.lanes}

    def test_without_servers_one_session_deselects_nothing(self, sessions: list) -> None:
        self.statuses = [0]
        assert self.main(["-k", "x"]) == 0
        assert [arguments for arguments, _ in sessions] == [["-k", "x"]]
        assert not self.lanes

    def test_the_whole_suite_is_a_session_for_each_set_of_folders(self, sessions: list) -> None:
        assert self.main([]) == 0
        quick = "-m not thorough"
        assert set(self._lanes()) == {f"{quick} {one}" for one in (*self.APART, self.OTHERS)}
        assert not sessions

    def test_each_leaves_what_it_has_compiled_for_the_others(
        self, sessions: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        assert self.main([]) == 0
        assert not any("PYTHONDONTWRITEBYTECODE" in lane for lane in self._lanes().values())

    def test_each_folder_of_tests_is_in_one_session(self) -> None:
        apart = " ".join(self.APART).split()
        assert all(Path(folder.removeprefix("--ignore=")).is_dir() for folder in apart)
        whole = [folder for folder in apart if folder.count("/") == 1]
        assert self.OTHERS.split() == [f"--ignore={folder}" for folder in whole]

    @pytest.mark.parametrize("failed", ["-m not thorough tests/browser", f"-m not thorough {LONG}"])
    def test_a_failure_in_one_of_them_is_a_failure(self, sessions: list, failed: str) -> None:
        self.lane_statuses[failed] = 1
        assert self.main([]) == 1

    def test_with_all_servers_their_tests_are_two_more(
        self, sessions: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://h/x")
        monkeypatch.setenv("REDIS_URL", "redis://h")
        on_servers = ("tests/walks tests/attacks", "--ignore=tests/walks --ignore=tests/attacks")
        marked = "-m (postgres or redis) and not thorough"
        on_servers = tuple(f"{folders} {marked}" for folders in on_servers)
        self.lane_statuses[on_servers[1]] = 1
        assert self.main([]) == 1
        lanes = self._lanes()
        rest = "-m not (postgres or redis) and not thorough"
        given = [lanes.pop(session) for session in on_servers]
        assert {environment["DATABASE_URL"] for environment in given} == {"postgres://h/x"}
        assert len({environment["DJANGO_SECRET_KEY"] for environment in given}) == 2
        assert set(lanes) == {f"{rest} {folders}" for folders in (*self.APART, self.OTHERS)}
        assert not any("DATABASE_URL" in environment for environment in lanes.values())

    def test_everywhere_omits_nothing(
        self, sessions: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.main(["--everywhere"]) == pytest.ExitCode.USAGE_ERROR
        monkeypatch.setenv("DATABASE_URL", "postgres://h/x")
        monkeypatch.setenv("REDIS_URL", "redis://h")
        assert self.main(["--everywhere"]) == 0
        lanes = self._lanes()
        on_servers = [lanes.pop(f"{folders} -m ") for folders in (*self.APART, self.OTHERS)]
        assert {lane["REDIS_URL"].rpartition("/")[0] for lane in on_servers} == {"redis://h"}
        for name in ("TEST_DATABASE_SUFFIX", "DJANGO_SECRET_KEY", "REDIS_URL"):
            assert len({lane[name] for lane in on_servers}) == len(on_servers)
        assert {lane["KILLED_RUNS"] for lane in on_servers} == {"200"}
        rest = "-m not (postgres or redis)"
        assert set(lanes) == {f"{rest} {folders}" for folders in (*self.APART, self.OTHERS)}

    def test_a_session_shows_its_output_at_its_end(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from tests import __main__ as runner

        assert runner._shown_at_its_end((["--version"], dict(os.environ))) == 0
        assert "pytest" in capsys.readouterr().out

    def test_a_server_gets_a_session_and_the_other_omits_its_marks(
        self, sessions: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://h/x")
        self.statuses = [0, 0]
        assert self.main(["-q"]) == 0
        (first, with_postgres), (second, alone) = sessions
        assert first == ["-q", "-m", "postgres"]
        assert with_postgres["DATABASE_URL"] == "postgres://h/x"
        assert second == ["-m", "not (postgres)", "-q"]
        assert "DATABASE_URL" not in alone

    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [([0, 0], 0), ([1, 0], 1), ([0, 1], 1), ([5, 0], 0), ([0, 5], 0), ([5, 1], 1), ([5, 5], 5)],
    )
    def test_the_status_is_that_of_a_failed_session(
        self,
        sessions: list,
        monkeypatch: pytest.MonkeyPatch,
        statuses: list[int],
        expected: int,
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgres://h/x")
        monkeypatch.setenv("REDIS_URL", "redis://h")
        self.statuses = statuses
        assert self.main(["-q"]) == expected
        assert sessions[0][0] == ["-q", "-m", "postgres or redis"]
