"""The dashboard and the alert rules name metrics, labels and values that processes really have."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.server import Installation, Server

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "halting.json").read_text())
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
TOKEN = "a token for Prometheus"

#: Labels that Prometheus adds to each series.
ADDED = {"job", "instance"}
FUNCTIONS = {
    *("histogram_quantile", "increase", "label_values", "max", "min", "min_over_time", "rate"),
    "sum",
}

Series = dict[str, list[dict[str, str]]]  # metric -> the labels of each of its series


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """Return the series of a process that has run, stopped and failed agents."""
    site = Installation(tmp_path_factory.mktemp("site"), METRICS_TOKEN=TOKEN)
    with site.serving() as server:
        for name, input, end in (
            ("site-trivial", {"number": 1}, "success"),
            ("summarise", {"document": "It was a day."}, "success"),
            ("site-fail", {}, "error"),
        ):
            server.until(server.start(name, **input), end)
        run = server.start("site-loop")
        server.until_it_works(run)
        server.client.post(f"/runs/{run}/stop")
        server.until(run, "stopped")
        return _scrape(server)


def _scrape(server: Server) -> Series:
    answer = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    found: Series = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found


def _panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def _queries() -> Iterator[tuple[str, str]]:
    """Yield each query, with its place."""
    for panel in _panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}, {target['refId']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["definition"]
    for rule in ALERTS:
        yield f"alert {rule['alert']}", rule["expr"]


QUERIES = dict(_queries())


def problems(query: str, series: Series) -> Iterator[str]:
    """Yield the names in a query that no series has.

    It reads as much of PromQL as the queries here need: metrics with matchers, functions, by().
    """
    rest = query
    metrics: list[str] = []
    for metric, matchers in re.findall(r"\b([a-z_]\w*)\s*\{([^}]*)\}", query):
        for label, sign, value in re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', matchers):
            values = {labels[label] for labels in series.get(metric, []) if label in labels}
            if label not in ADDED and not values:
                yield f"{metric} has no label {label}"
            elif sign != "=~" and value not in values:
                yield f"{metric} has no {label} that is {value}"
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", rest)
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", rest)
    rest = re.sub(r"\bby\s*\([^)]*\)", "", rest)
    if wanted := re.fullmatch(r"label_values\((\w+), (\w+)\)", rest):
        rest, grouped = wanted[1], [wanted[2]]
    for name, opening in re.findall(r"\b([a-zA-Z_]\w*)\s*(\(?)", rest):
        if opening and name not in FUNCTIONS:
            yield f"{name} is no known function"
        elif not opening:
            metrics.append(name)
            if name not in series:
                yield f"there is no metric {name}"
    if not metrics:
        yield "there is no metric in it"
    known = {label for metric in metrics for labels in series.get(metric, []) for label in labels}
    for label in (label.strip() for group in grouped for label in group.split(",")):
        if label not in known | ADDED:
            yield f"{', '.join(metrics)} have no label {label}"


@pytest.mark.slow
@pytest.mark.parametrize("place", QUERIES)
def test_a_query_finds_what_processes_have(place: str, series: Series) -> None:
    assert list(problems(QUERIES[place], series)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("max(halting_run)", "there is no metric halting_run"),
        ('max(halting_runs{state="queued"})', "halting_runs has no label state"),
        ('max(halting_runs{status="waiting"})', "halting_runs has no status that is waiting"),
        ("sum by (owner) (halting_runs)", "halting_runs have no label owner"),
        ("avg_of(halting_runs)", "avg_of is no known function"),
        ("label_values(halting_runs, agent)", "halting_runs have no label agent"),
        ("1 > 0", "there is no metric in it"),
    ],
)
def test_a_query_that_would_find_nothing_is_noticed(
    query: str, problem: str, series: Series
) -> None:
    assert list(problems(query, series)) == [problem]


@pytest.mark.slow
def test_every_metric_of_ours_is_on_the_dashboard(series: Series) -> None:
    shown = " ".join(expression for place, expression in _queries() if place.startswith("panel"))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}
    missing = {name for name in ours if name.startswith("halting_") and name not in shown}
    assert missing == {"halting_recorder_batch_events"}


def test_panels_have_titles_places_and_units_of_their_own() -> None:
    panels = list(_panels())
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert all(panel["description"] and panel["targets"] for panel in panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)


def test_alerts_say_what_is_wrong_and_what_it_means() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule["alert"].startswith("Halting")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {"summary", "description"}


class TestByPrometheus:
    """What Prometheus itself says, where its ``promtool`` is installed: .ci/run does it."""

    def test_the_rules_are_valid(self) -> None:
        said = _promtool("check", "rules", str(RULES))
        assert said is None or f"{len(ALERTS)} rules found" in said

    def test_the_queries_of_the_dashboard_are_valid(self, tmp_path: Path) -> None:
        rules = [
            {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
            for number, (place, expression) in enumerate(_queries())
            if place.startswith("panel")
        ]
        (tmp_path / "panels.yml").write_text(
            yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})
        )
        said = _promtool("check", "rules", str(tmp_path / "panels.yml"))
        assert said is None or f"{len(rules)} rules found" in said

    def test_alerts_fire_when_they_should(self, tmp_path: Path) -> None:
        shutil.copy(RULES, tmp_path / "alerts.yml")
        cases = [_case(alert, values, minutes) for alert, (values, minutes) in FIRING.items()]
        cases += [_case(alert, values, minutes, 0) for alert, (values, minutes) in QUIET.items()]
        tests = {"rule_files": ["alerts.yml"], "evaluation_interval": "30s", "tests": cases}
        (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
        said = _promtool("test", "rules", str(tmp_path / "tests.yml"))
        assert said is None or "SUCCESS" in said
        assert set(FIRING) == {rule["alert"] for rule in ALERTS}


#: Alert -> the series with which it fires, and after how many minutes. A value each half minute.
FIRING: dict[str, tuple[dict[str, str], int]] = {
    "HaltingDatabaseDown": ({"halting_database_up": "1 0x10"}, 3),
    "HaltingNoWorker": ({'halting_workers{state="taking"}': "0x10"}, 3),
    "HaltingWorkersLost": ({'halting_workers_reaped_total{reason="lease"}': "0 0 1x10"}, 3),
    "HaltingLeasesNotRenewed": (
        {'halting_lease_renewals_total{outcome="failed",instance="a"}': "0+1x10"},
        4,
    ),
    "HaltingQueueOld": ({"halting_queue_oldest_seconds": "0+60x40"}, 12),
    "HaltingStopsTakeLong": (
        {
            'halting_stop_seconds_bucket{agent="a",until="finished",le="60"}': "0x60",
            'halting_stop_seconds_bucket{agent="a",until="finished",le="300"}': "0+1x60",
            'halting_stop_seconds_bucket{agent="a",until="finished",le="+Inf"}': "0+1x60",
        },
        10,
    ),
    "HaltingStopsArriveLate": (
        {
            'halting_stop_seconds_bucket{agent="a",until="acknowledged",le="1"}': "0x60",
            'halting_stop_seconds_bucket{agent="a",until="acknowledged",le="2.5"}': "0+1x60",
            'halting_stop_seconds_bucket{agent="a",until="acknowledged",le="+Inf"}': "0+1x60",
        },
        10,
    ),
    "HaltingRunsDoNotStop": ({'halting_runs{status="stopping"}': "1x60"}, 20),
    "HaltingAbandonedCode": ({'halting_runs_abandoned_here{instance="a"}': "1x60"}, 12),
    "HaltingLoopBlocked": ({'halting_loop_blocked_seconds{instance="a"}': "0 30x10"}, 2),
    "HaltingLoopBlockedOften": ({'halting_loop_blocks_total{instance="a"}': "0+2x60"}, 15),
    "HaltingRunsFail": (
        {
            'halting_runs_finished_total{agent="a",status="error"}': "0+2x80",
            'halting_runs_finished_total{agent="a",status="success"}': "0+1x80",
        },
        30,
    ),
    "HaltingMessagesDropped": ({"halting_messages_dropped_total": "0+1x60"}, 10),
}

#: The same with which it does not.
QUIET: dict[str, tuple[dict[str, str], int]] = {
    "HaltingDatabaseDown": ({"halting_database_up": "1 0 1x10"}, 3),
    "HaltingStopsTakeLong": (
        {
            'halting_stop_seconds_bucket{agent="a",until="finished",le="60"}': "0+1x60",
            'halting_stop_seconds_bucket{agent="a",until="finished",le="+Inf"}': "0+1x60",
        },
        10,
    ),
    "HaltingStopsArriveLate": (
        {
            'halting_stop_seconds_bucket{agent="a",until="acknowledged",le="1"}': "0x60",
            'halting_stop_seconds_bucket{agent="a",until="acknowledged",le="+Inf"}': "0x60",
        },
        10,
    ),
    "HaltingRunsDoNotStop": ({'halting_runs{status="stopping"}': "1x20 0 1x60"}, 20),
    "HaltingRunsFail": (
        {
            'halting_runs_finished_total{agent="a",status="error"}': "0x80",
            'halting_runs_finished_total{agent="a",status="success"}': "0x80",
        },
        30,
    ),
}


def _case(
    alert: str, series: dict[str, str], minutes: int, count: int | None = None
) -> dict[str, Any]:
    """Return a test of promtool's that an alert fires; with ``count`` 0, that it does not.

    Its own test of alerts compares all labels and texts, so this asks for the series ALERTS.
    """
    return {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0',
                "eval_time": f"{minutes}m",
                "exp_samples": [] if count == 0 else [{"labels": "{}", "value": 1}],
            }
        ],
    }


def _promtool(*arguments: str) -> str | None:
    """Run promtool, and return what it says; None where there is none."""
    promtool = shutil.which("promtool")
    if promtool is None:
        return None
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
