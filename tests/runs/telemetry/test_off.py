"""Without a tracer provider nothing of OpenTelemetry is imported, and no run has a span."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import trace

from runs.telemetry import traceparent

ROOT = Path(__file__).resolve().parents[3]

_RUN = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from runs.models import RunRecord
from runs.asgi import get_asgi_application
get_asgi_application()
call_command("migrate", verbosity=0)
User.objects.create_user("demo")
try:
    call_command("run_agent", "summarise", input=["document=It was a day."], user="demo")
except SystemExit as end:
    assert not end.code, end.code
assert RunRecord.objects.filter(status="success", llm_calls=1).count() == 2
print("imported:", sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


def test_nothing_is_imported_without_a_provider(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_DEBUG": "1",
        "LLM_BASE_URL": "",
        "LLM_API_KEY": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize(
    "provider", [None, trace.ProxyTracerProvider(), trace.NoOpTracerProvider()]
)
def test_the_api_alone_is_no_provider(
    provider: trace.TracerProvider | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    assert traceparent.opentelemetry_api() is None
    assert traceparent.current_traceparent() is None
