"""Django's settings, and the only place that reads the environment.

README.md has the table of variables. A value that can't be understood stops the start with the
variable's name; a value that can, but is unwise, is a system check (runs/checks.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from project.environment import Environment
from runs.db import connecting
from runs.processes import own_session_name

_env = Environment(os.environ)

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Django itself ------------------------------------------------------------------------------

DEBUG = _env.switch("DJANGO_DEBUG", default=False)

# The prefix is the one that Django's own check looks for, so that `check --deploy` names it.
# Outside debug nothing is served with it: see project/lifespan.py.
SECRET_KEY = _env.text("DJANGO_SECRET_KEY", "django-insecure-not-secret: set DJANGO_SECRET_KEY")

ALLOWED_HOSTS = _env.words("DJANGO_ALLOWED_HOSTS")

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WORKER_ASGI_APPLICATION = "project.worker_asgi.application"

INSTALLED_APPS = [
    "agents",
    "agents.samples",
    # Before staticfiles and channels: they have a runserver and a runworker, too, and the first
    # one wins.
    "runs",
    "channels",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.middleware.content_security_policy",
    "project.middleware.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "project.errors.NotFoundMiddleware",
    "project.errors.UnavailableMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "project" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# All texts are marked for translation; without LocaleMiddleware everybody reads LANGUAGE_CODE, and
# not half a page in the language of Django's own catalogues.
LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Data ---------------------------------------------------------------------------------------

_database = _env.database("DATABASE_URL") or {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": BASE_DIR / "db.sqlite3",
}
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database["OPTIONS"] = {
        # A deferred transaction that turns into a writer fails at once when another one writes,
        # whatever the timeout (509 "database is locked" errors in a burst; with IMMEDIATE: 0).
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # WAL: readers don't wait for the writer. NORMAL: safe with WAL against a crash of the
        # process; only a power cut can lose the last transactions.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        **_database.get("OPTIONS", {}),
    }
else:
    # The pool and persistent connections exclude each other, hence CONN_MAX_AGE 0. Under ASGI
    # every request has a thread of its own: without a pool each would open a connection.
    _database["CONN_MAX_AGE"] = 0
    # The pool asks each connection whether it still works before it hands it out (a tenth of a
    # millisecond): after a restart of the server all that it has are dead.
    _database["CONN_HEALTH_CHECKS"] = True
    # A process that freezes in the middle of a transaction keeps its locks, and whoever finds its
    # runs would wait for it: longer than a third of a lease nobody does, or hearts miss a beat.
    _idle_seconds = max(1.0, _env.seconds("RUNS_LEASE_SECONDS", 15, at_least=0) / 3)
    _settings_of_sessions = f"-c idle_in_transaction_session_timeout={_idle_seconds * 1000:.0f}"
    _database["OPTIONS"] = {
        "pool": {
            "min_size": 1,
            # A worker's threads alone hold eight.
            "max_size": _env.whole_number("DATABASE_POOL_SIZE", 20, at_least=10),
            # The pool pauses for twice as long after each failed attempt:
            # after an outage of 45 s the first came 9.5 s late. Where it gives up after a second,
            # whoever wants one next has it try anew: 0.1 s.
            "timeout": connecting.PATIENCE_SECONDS,
            "reconnect_timeout": 1,
            "reconnect_failed": connecting.note_failure,
        },
        # A server whose machine vanished says nothing, not even that it is gone. (libpq's names.)
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # milliseconds
        "options": _settings_of_sessions,
        # By this name others find the sessions of a process that is lost and holds locks.
        "application_name": own_session_name(),
        **_database.get("OPTIONS", {}),
    }
DATABASES = {"default": _database}

_redis_url = _env.redis_url("REDIS_URL")
CHANNEL_LAYERS: dict[str, Any]
CACHES: dict[str, Any]
if _redis_url:
    # A Redis that swallows packets must not hold up requests, which it serves only by the way.
    _patience = {"socket_connect_timeout": 0.5, "socket_timeout": 0.5}
    # Pub/sub rather than the list-based layer: messages here only save time (the database is the
    # truth), it delivers in a third of the time, and it has no capacity beyond which it drops.
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "runs.delivery.redis_layer.RedisLayer",
            "CONFIG": {"host": {"address": _redis_url, **_patience}, "prefix": "halting"},
        }
    }
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": _redis_url,
            "KEY_PREFIX": "halting",
            "OPTIONS": _patience,
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# --- Runs: read through runs/conf.py, which holds the types and the defaults --------------------

RUNS: dict[str, Any] = {
    "EMBEDDED_WORKER": _env.switch("RUNS_EMBEDDED_WORKER", default=True),
    "MAX_CONCURRENT": _env.whole_number("RUNS_MAX_CONCURRENT", 1000, at_least=1),
    "MAX_PER_OWNER": _env.whole_number("RUNS_MAX_PER_OWNER", 0, at_least=0),
    "KEEP_DAYS": _env.whole_number("RUNS_KEEP_DAYS", 0, at_least=0),
    "KEEP_LOGS_DAYS": _env.whole_number("RUNS_KEEP_LOGS_DAYS", 0, at_least=0),
    "QUEUE_SECONDS": _env.seconds("RUNS_QUEUE_SECONDS", 0, at_least=0),
    "WORKER_LISTEN": _env.text("RUNS_WORKER_LISTEN", "127.0.0.1:0"),
    "LEASE_SECONDS": _env.seconds("RUNS_LEASE_SECONDS", 15, at_least=0),
    "DRAIN_SECONDS": _env.seconds("RUNS_DRAIN_SECONDS", 20, at_least=0),
    "MAX_INPUT_BYTES": _env.whole_number("RUNS_MAX_INPUT_BYTES", 8 * 1024 * 1024, at_least=1),
    "API_THROTTLE_RATE": _env.rate("API_THROTTLE_RATE", "600/min"),
    "LLM": {
        "BASE_URL": _env.http_url("LLM_BASE_URL"),
        "API_KEY": _env.text("LLM_API_KEY"),
        "MODEL": _env.text("LLM_MODEL"),
    },
}

# --- For operators ------------------------------------------------------------------------------

# Who may scrape /metrics; without one it isn't there, outside debug.
METRICS_TOKEN = _env.text("METRICS_TOKEN")

# --- Security -----------------------------------------------------------------------------------

# TLS, and the redirect to it, belong to the proxy; behind it plain HTTP must answer.
SECURE_SSL_REDIRECT = _env.switch("DJANGO_SSL_REDIRECT", default=False)
SECURE_REDIRECT_EXEMPT = [r"^health/"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# The proxies whose X-Forwarded-For is believed; runs/ops/serving.py hands them to uvicorn.
FORWARDED_ALLOW_IPS = _env.words("FORWARDED_ALLOW_IPS") or ["127.0.0.1", "::1"]
SECURE_HSTS_SECONDS = 0 if DEBUG else 365 * 24 * 60 * 60
SESSION_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_SECURE = not DEBUG
SESSION_COOKIE_HTTPONLY = True
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "project.errors.csrf_failure"

SILENCED_SYSTEM_CHECKS = [
    "security.W008",  # SECURE_SSL_REDIRECT: the proxy's business, see above.
    # HSTS for all subdomains, and in the browsers' preload list: only the owner of the domain
    # can know whether its other hosts speak TLS.
    "security.W005",
    "security.W021",
]

# The API counts a body itself and answers 413 (runs/api); what is far too large does not even
# get there (project/body_limit.py). Django's own limit only has to stay out of the way.
DATA_UPLOAD_MAX_MEMORY_SIZE = RUNS["MAX_INPUT_BYTES"] + 2 * 1024 * 1024

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "/accounts/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/accounts/login/"

# --- Static files -------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "project" / "static"]
# Straight from the packages, also in production: nobody has to remember `collectstatic`.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
# Asked for again each time, and answered by 304: a page's modules must be of one version, and names
# with hashes would need `collectstatic`.
WHITENOISE_MAX_AGE = 0
WHITENOISE_ALLOW_ALL_ORIGINS = False

# --- API ----------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    # The first one decides the WWW-Authenticate header of a 401.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        # The API's views name their own, stricter ones (runs/web/api/views.py): those describe
        # themselves to drf-spectacular, which can't be imported while DRF reads this.
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_THROTTLE_CLASSES": ["runs.web.api.throttling.ApiThrottle"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "runs.web.api.errors.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Halting",
    "DESCRIPTION": "Run LLM agents, watch them, and stop any one of them for real.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    # Scripts and styles of the docs come from ourselves, as the CSP wants it.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- Logging: one line each, no prompts, no secrets ---------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "runs.ops.logs.PlainLines"},
        "json": {"()": "runs.ops.logs.JsonLines"},
    },
    "filters": {
        "facts": {"()": "runs.ops.logs.Facts"},
        "seldom": {"()": "runs.ops.logs.Seldom"},
        "no_503": {"()": "runs.ops.logs.NotUnavailable"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": _env.choice("LOG_FORMAT", ("line", "json")),
            "filters": ["facts"],
        },
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        # Django's own handlers would print the same lines a second time.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        # An error for each request of an outage, and for each probe of a drain. Who answers so has
        # said why.
        "django.request": {"filters": ["no_503"]},
        # Six lines at every start and every reload say nothing that runserver hasn't said.
        "uvicorn.error": {"level": "WARNING" if DEBUG else "INFO"},
        # One line per request, probe and static file is the proxy's log, not ours.
        "uvicorn.access": {"level": "INFO" if DEBUG else "WARNING"},
        # At DEBUG these log whole requests, prompts included.
        **{name: {"level": "WARNING"} for name in ("httpx", "httpcore", "httpx2", "httpcore2")},
        "openai": {"level": "WARNING"},
        # While Redis or PostgreSQL is away these say so with each try, or with each request; the
        # first of them with a traceback, each second.
        **{
            name: {"filters": ["seldom"]}
            for name in (
                *("channels_redis.pubsub", "psycopg.pool", "project.errors"),
                *("runs.web.api.errors", "runs.web.api.throttling", "runs.ops.health"),
                *("runs.consumers", "runs.worker.recorder", "runs.worker.worker"),
            )
        },
    },
}
