"""The project's settings, and the agents of this app."""

import os

from project.settings import *  # noqa: F403
from project.settings import CHANNEL_LAYERS as _LAYERS
from project.settings import INSTALLED_APPS as _APPS
from project.settings import RUNS as _RUNS

INSTALLED_APPS = [*_APPS, "tests.support.site"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# No style sheet changes while a test runs: find each one once, not for every page.
WHITENOISE_AUTOREFRESH = False

# Where agents write lines outside of the database; see witnesses.py.
WITNESS_FILE = os.environ.get("WITNESS_FILE", "")

# The share of messages between processes that are lost; as many arrive twice. See lossy.py.
LOST_MESSAGES = float(os.environ.get("LOST_MESSAGES") or 0)
if LOST_MESSAGES:
    _LAYERS["default"]["BACKEND"] = "tests.support.site.lossy.LossyLayer"

# How often workers poll for work and for stops without a message; see agents.py.
POLL_SECONDS = float(os.environ.get("POLL_SECONDS") or 0)

# The servers that agents here talk to are on loopback.
_RUNS["HTTP"]["ALLOW"] = _RUNS["HTTP"]["ALLOW"] or ["127.0.0.1"]

# Where the spans of each process go; see tracing.py. Without it, nothing imports OpenTelemetry.
if os.environ.get("SPANS_FILE"):
    from tests.support.site.tracing import write_spans

    write_spans(os.environ["SPANS_FILE"])
