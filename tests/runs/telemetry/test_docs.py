"""The set-up in docs/telemetry.md works as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

_SETTINGS = "from project.settings import *\n\n"
_RUN = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", verbosity=0)
User.objects.create_user("demo")
call_command("run_agent", "count_words", input=["text=It was a day."], user="demo")
"""


def test_the_set_up_of_the_page_shows_a_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "telemetry.md").read_text()
    (set_up,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "traced_settings.py").write_text(_SETTINGS + set_up)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "traced_settings",
        "DJANGO_DEBUG": "1",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spans = [json.loads(text) for text in re.findall(r"^\{$.*?^\}$", done.stdout, re.M | re.S)]
    of_run = next(span for span in spans if span["name"] == "invoke_agent count_words")
    assert of_run["attributes"]["halting.run.status"] == "success"
    assert of_run["resource"]["attributes"]["service.name"] == "mysite"
    calls = [span for span in spans if span["parent_id"] == of_run["context"]["span_id"]]
    assert len(calls) == len(spans) - 1
