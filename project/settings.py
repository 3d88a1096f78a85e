"""Django's settings. No other module reads the environment.

README.md has the table of variables. A value that can't be read stops the start, with the
variable's name. A value that is readable but unwise is a system check (runs/checks.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agents.tools.llm import options as llm_options
from project.environment import Environment
from project.environment.keys import derived_key
from runs.db import connecting
from runs.process.names import own_session_name

_env = Environment(os.environ)

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Django itself ------------------------------------------------------------------------------

DEBUG = _env.switch("DJANGO_DEBUG", default=False)

# Django's own check knows this prefix, so `check --deploy` names the default key. Outside debug
# mode runs/asgi/lifespan.py refuses to serve with it.
SECRET_KEY = _env.secret_key("DJANGO_SECRET_KEY", is_any_accepted=DEBUG) or (
    "django-insecure-not-secret: set DJANGO_SECRET_KEY"
)
# Former keys, which still verify sessions and messages. The newest one comes first.
SECRET_KEY_FALLBACKS = _env.secret_keys("DJANGO_SECRET_KEY_FALLBACKS", is_any_accepted=DEBUG)

ALLOWED_HOSTS = _env.host_patterns("DJANGO_ALLOWED_HOSTS")

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

INSTALLED_APPS = [
    "agents",
    "agents.samples",
    # Before staticfiles and channels, which have a runserver and a runworker, too: the first wins.
    "runs",
    "runs.identity",
    "channels",
    "rest_framework",
    # Its tokens are honoured until the next release (runs/identity/tokens.py).
    "rest_framework.authtoken",
    "drf_spectacular_sidecar",  # the scripts of /api/docs
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",  # its middleware serves the static files, not runserver
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
    "runs.identity.actors.remember_request",
    "runs.identity.sessions.slide",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "runs.web.error_pages.ErrorPagesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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

# All texts are marked for translation. Without LocaleMiddleware all pages are in LANGUAGE_CODE, and
# none is half in the language of Django's own catalogues.
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Data ---------------------------------------------------------------------------------------

_lease_seconds = _env.seconds("RUNS_LEASE_SECONDS", 15, at_least=1, at_most=24 * 60 * 60)
_pool_size = _env.whole_number("DATABASE_POOL_SIZE", 20, at_least=10, at_most=10_000)

_database = _env.database("DATABASE_URL") or {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": BASE_DIR / "db.sqlite3",
}
if (
    _database["ENGINE"] != "django.db.backends.sqlite3"
):  # runs/db/options.py knows what SQLite needs
    # Under ASGI each request has a thread of its own, which would open a connection without a pool.
    # Django's pool requires CONN_MAX_AGE 0.
    _database["CONN_MAX_AGE"] = 0
    # The pool tests each connection before it hands it out, which takes 0.1 ms: after a restart of
    # the server all its connections are dead.
    _database["CONN_HEALTH_CHECKS"] = True
    # A process that freezes in the middle of a transaction keeps its locks. The workers that take
    # its runs would wait for them, and could not renew their own leases. So the server ends such a
    # session after a third of a lease.
    _idle_seconds = max(1.0, _lease_seconds / 3)
    _settings_of_sessions = f"-c idle_in_transaction_session_timeout={_idle_seconds * 1000:.0f}"
    _database["OPTIONS"] = {
        "pool": {
            "min_size": 1,
            # A worker's threads alone hold eight.
            "max_size": _pool_size,
            "timeout": connecting.PATIENCE_SECONDS,
            "reconnect_timeout": connecting.RECONNECT_SECONDS,
            "reconnect_failed": connecting.note_failure,
            "connection_class": connecting.pooled_connection_class(),
        },
        # A machine that vanished closes no connection: these (libpq's names) find out.
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # milliseconds
        "options": _settings_of_sessions,
        # Other processes find the sessions of a lost process that holds locks by this name.
        "application_name": own_session_name(),
        **_database.get("OPTIONS", {}),
    }
DATABASES = {"default": _database}

_redis_url = _env.redis_url("REDIS_URL")
CHANNEL_LAYERS: dict[str, Any]
CACHES: dict[str, Any]
if _redis_url:
    # Requests need Redis for little, so a Redis that doesn't answer must not delay them.
    _patience = {"socket_connect_timeout": 0.5, "socket_timeout": 0.5}
    # Processes understand each other while the secret key changes: those that have the new key use
    # the old one until it is no longer a fallback.
    _oldest_first = [SECRET_KEY, *SECRET_KEY_FALLBACKS][::-1]
    # Two installations may share a Redis.
    _redis_prefix = f"halting-{derived_key(_oldest_first[0], 'names in Redis')[:12]}"
    # Pub/sub rather than the list-based layer: it delivers in a third of the time, and has no
    # capacity beyond which it drops messages. It stores none, but messages here only save time: the
    # database is the truth.
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "runs.delivery.redis_layer.RedisLayer",
            "CONFIG": {
                "host": {"address": _redis_url, **_patience},
                "prefix": _redis_prefix,
                "symmetric_encryption_keys": [
                    derived_key(key, "messages") for key in _oldest_first
                ],
            },
        }
    }
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": _redis_url,
            "KEY_PREFIX": _redis_prefix,
            # Django's own would be pickle.
            "OPTIONS": {**_patience, "serializer": "project.cache_values.JsonValues"},
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            # By default 300: a client that invents names would push the counts of others out.
            "OPTIONS": {"MAX_ENTRIES": 20_000},
        }
    }

# --- Runs: read through runs/conf.py, which holds the types and the defaults --------------------

RUNS: dict[str, Any] = {
    "EMBEDDED_WORKER": _env.switch("RUNS_EMBEDDED_WORKER", default=True),
    "MAX_CONCURRENT": _env.whole_number("RUNS_MAX_CONCURRENT", 1000, at_least=1, at_most=1_000_000),
    "MAX_THREADS": _env.whole_number("RUNS_MAX_THREADS", 256, at_least=1, at_most=100_000),
    "MAX_THREADS_PER_RUN": _env.whole_number(
        "RUNS_MAX_THREADS_PER_RUN", 8, at_least=1, at_most=100_000
    ),
    "MAX_PER_OWNER": _env.whole_number("RUNS_MAX_PER_OWNER", 0, at_least=0, at_most=1_000_000),
    "MAX_QUEUED_PER_OWNER": _env.whole_number("RUNS_MAX_QUEUED_PER_OWNER", 10_000, at_least=0),
    "MAX_STORED_BYTES_PER_OWNER": _env.whole_number(
        "RUNS_MAX_STORED_BYTES_PER_OWNER", 20 * 1024**3, at_least=0
    ),
    "MAX_DATA_STORE_KEYS_PER_OWNER": _env.whole_number(
        "RUNS_MAX_DATA_STORE_KEYS_PER_OWNER", 1_000_000, at_least=0
    ),
    "MAX_FEEDS_PER_OWNER": _env.whole_number("RUNS_MAX_FEEDS_PER_OWNER", 400, at_least=0),
    "MAX_WAITERS_PER_OWNER": _env.whole_number("RUNS_MAX_WAITERS_PER_OWNER", 1000, at_least=0),
    "KEEP_DAYS": _env.whole_number("RUNS_KEEP_DAYS", 0, at_least=0),
    "KEEP_LOGS_DAYS": _env.whole_number("RUNS_KEEP_LOGS_DAYS", 0, at_least=0),
    "QUEUE_SECONDS": _env.seconds("RUNS_QUEUE_SECONDS", 0, at_least=0),
    "DEADLINE_SECONDS": _env.seconds("RUNS_DEADLINE_SECONDS", 0, at_least=0, at_most=366 * 86_400),
    "WORKER_LISTEN": _env.listening("RUNS_WORKER_LISTEN", "127.0.0.1:0"),
    "LEASE_SECONDS": _lease_seconds,
    "REPLACE_WHEN_BLOCKED_SECONDS": _env.seconds(
        "RUNS_REPLACE_WHEN_BLOCKED_SECONDS", 0, at_least=0, at_most=7 * 24 * 60 * 60
    ),
    "DRAIN_SECONDS": _env.seconds("RUNS_DRAIN_SECONDS", 20, at_least=0, at_most=7 * 24 * 60 * 60),
    "MAX_INPUT_BYTES": _env.whole_number(
        "RUNS_MAX_INPUT_BYTES",
        8 * 1024 * 1024,
        at_least=1,
        at_most=256 * 1024 * 1024 - 1,  # of a jsonb in PostgreSQL
    ),
    "GUARD_EVERYTHING": _env.switch("RUNS_GUARD_EVERYTHING", default=False),
    "STOP_INACTIVE_OWNERS": _env.switch("RUNS_STOP_INACTIVE_OWNERS", default=True),
    "DRF_TOKENS": True,  # the release before had no others
    "API_TOKEN_DAYS": _env.whole_number("API_TOKEN_DAYS", 365, at_least=0),
    "AUDIT_KEEP_DAYS": _env.whole_number("AUDIT_KEEP_DAYS", 400, at_least=0),
    "TRACEPARENT_HOSTS": _env.reachable("RUNS_TRACEPARENT_HOSTS"),
    "API_THROTTLE_RATE": _env.rate("API_THROTTLE_RATE", "600/min"),
    "LLM": {
        "BASE_URL": _env.http_url("LLM_BASE_URL"),
        "API_KEY": _env.checked("LLM_API_KEY", llm_options.key_problem),
        "MODEL": _env.checked("LLM_MODEL", llm_options.name_problem),
        "PROXY_URL": _env.checked("LLM_PROXY_URL", llm_options.proxy_problem),
    },
    "HTTP": {
        "ALLOW": _env.reachable("AGENTS_HTTP_ALLOW"),
        "PROXY_URL": _env.checked("AGENTS_HTTP_PROXY_URL", llm_options.proxy_problem).rstrip("/"),
    },
}

# --- For operators ------------------------------------------------------------------------------

# A scraper of /metrics sends this. Without it there is no /metrics outside debug mode.
METRICS_TOKEN = _env.header_token("METRICS_TOKEN")

# --- Security -----------------------------------------------------------------------------------

# TLS and the redirect to it are the proxy's task. The proxy itself uses plain HTTP.
SECURE_SSL_REDIRECT = _env.switch("DJANGO_SSL_REDIRECT", default=False)
SECURE_REDIRECT_EXEMPT = [r"^health/"]
# The proxies whose X-Forwarded-Proto and -For are believed; runs/ops/serving.py hands them to
# uvicorn, which puts the scheme and the address into the request. Nothing else reads these headers:
# SECURE_PROXY_SSL_HEADER would believe every client, and so would USE_X_FORWARDED_HOST.
FORWARDED_ALLOW_IPS = _env.proxies("FORWARDED_ALLOW_IPS", ["127.0.0.1", "::1"])
SECURE_HSTS_SECONDS = 0 if DEBUG else 365 * 24 * 60 * 60
SESSION_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_SECURE = not DEBUG
# Browsers take a cookie with this prefix from this host and over TLS only: no page of a sister
# domain, and none without TLS, can plant one.
_cookie_prefix = "" if DEBUG else "__Host-"
SESSION_COOKIE_NAME = f"{_cookie_prefix}sessionid"
CSRF_COOKIE_NAME = f"{_cookie_prefix}csrftoken"
# A session ends when it was not used for so long, and two weeks after the sign-in.
SESSION_COOKIE_AGE = _env.whole_number("SESSION_IDLE_SECONDS", 24 * 60 * 60, at_least=60)
CSRF_FAILURE_VIEW = "runs.web.error_pages.csrf_failure"

SILENCED_SYSTEM_CHECKS = [
    "security.W008",  # SECURE_SSL_REDIRECT: the proxy's task, see above.
    # HSTS for all subdomains, and in the browsers' preload list: only the owner of the domain
    # knows whether its other hosts speak TLS.
    "security.W005",
    "security.W021",
]

# The API counts a body itself and answers 413 (runs/web/api), and runs/asgi refuses a body
# that is far too large. Django's own limit must be above both.
DATA_UPLOAD_MAX_MEMORY_SIZE = RUNS["MAX_INPUT_BYTES"] + 2 * 1024 * 1024

AUTHENTICATION_BACKENDS = ["runs.identity.passwords.PasswordBackend"]
# Django's own, which hold no database connection and leave some processors alone.
PASSWORD_HASHERS = [
    "runs.identity.passwords.PBKDF2Hasher",
    "runs.identity.passwords.PBKDF2SHA1Hasher",
    "runs.identity.passwords.Argon2Hasher",
    "runs.identity.passwords.BCryptHasher",
    "runs.identity.passwords.ScryptHasher",
]
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
# Serve files from the packages, in production, too: so no deployment needs `collectstatic`.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
# Browsers ask for each file again, and get 304: a page's modules must be of one version, and names
# with hashes would need `collectstatic`.
WHITENOISE_MAX_AGE = 0
WHITENOISE_ALLOW_ALL_ORIGINS = False

# --- API ----------------------------------------------------------------------------------------

# Only for the client of the tests: the API's views name all that DRF could take from here.
REST_FRAMEWORK = {"TEST_REQUEST_DEFAULT_FORMAT": "json"}

# runs/checks.py names them. (All settings of these prefixes are read above.)
UNKNOWN_VARIABLES = _env.unknown(prefixes=("RUNS_", "AGENTS_HTTP_"))

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
        "bad_requests": {"()": "runs.ops.logs.BadRequests"},
        "answered_handshake": {"()": "runs.ops.logs.AnsweredHandshake"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": _env.choice("LOG_FORMAT", ("line", "json")),
            "filters": ["facts", "bad_requests"],
        },
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        # Django's own handlers would print the same lines a second time.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        # Otherwise each request of an outage, and each probe of a drain, would log an error. The
        # code that answers 503 has logged the reason.
        "django.request": {"filters": ["no_503"]},
        "uvicorn.error": {
            # In debug mode: six lines at each start and reload that repeat what runserver says.
            "level": "WARNING" if DEBUG else "INFO",
            # Each client can cause "Invalid HTTP request received."
            "filters": ["seldom", "answered_handshake"],
        },
        # It counts all files, also those that Python compiles at the first start; uvicorn names the
        # sources that changed.
        "watchfiles": {"level": "WARNING"},
        # The proxy's log has a line for each request, probe and static file.
        "uvicorn.access": {"level": "INFO" if DEBUG else "WARNING"},
        # At DEBUG these log whole requests, prompts included.
        **{name: {"level": "WARNING"} for name in ("httpx", "httpcore", "httpx2", "httpcore2")},
        "openai": {"level": "WARNING"},
        # While Redis or PostgreSQL is away these log each attempt or each request; the first of
        # them logs a traceback each second.
        **{
            name: {"filters": ["seldom"]}
            for name in (
                *("channels_redis.pubsub", "runs.web.error_pages"),
                *("runs.delivery.redis_layer", "runs.web.feed.inbox"),
                *("runs.web.api.errors", "runs.web.api.throttling", "runs.ops.health"),
                *(
                    "runs.consumers",
                    "runs.worker.recorder",
                    "runs.worker.worker",
                    "runs.worker.heartbeat",
                ),
            )
        },
        # At INFO it logs three lines for each connection that it lends, also into a run's log.
        "psycopg.pool": {"level": "WARNING", "filters": ["seldom"]},
    },
}
