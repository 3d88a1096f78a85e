# Halting. `make run` is all that a newcomer needs; `make help` lists the rest.

PYTHON ?= python3
PORT ?= 8000
# Not ?=: some shells and conda export HOST with another meaning.
HOST = 127.0.0.1
# More arguments for pytest or the bench: make test ARGS="tests/runs -k stop"
ARGS ?=

# Relative paths only, and `python -m` instead of scripts: a checkout may live in a path with spaces.
PY := .venv/bin/python
RUN_STAMP := .venv/.installed-run
DEV_STAMP := .venv/.installed-dev
# The frameworks' pins differ from ours, so they have environments of their own; some need openai 2.
FRAMEWORKS_PY := .venv-frameworks/bin/python
FRAMEWORKS_STAMP := .venv-frameworks/.installed
OPENAI2_PY := .venv-frameworks-openai2/bin/python
OPENAI2_STAMP := .venv-frameworks-openai2/.installed
# The frameworks, and call_llm with that version of the openai SDK.
FRAMEWORKS_TESTS := tests/frameworks tests/agents/tools/llm/calls
LAYER_TEST := tests/test_layers.py

.DEFAULT_GOAL := help
.PHONY: help run venv test test-everywhere test-frameworks test-package check format lock bench package clean

help:
	@echo "make run     install, migrate, make the demo users, serve on http://$(HOST):$(PORT)/"
	@echo "make test    every test; ARGS=... goes to pytest; REQUIRE_ALL=1 makes a skipped test a failure"
	@echo "make test-everywhere   the whole suite on PostgreSQL and Redis, too"
	@echo "make test-frameworks   stops in LangChain, pydantic-ai and others, in environments of their own"
	@echo "make test-package      the tests of agents/ and runs/ on the package that sites install"
	@echo "make check   format, lint, types, missing migrations, layers"
	@echo "make format  put the code into shape"
	@echo "make bench   measure"
	@echo "make package build the wheel that sites install, in dist/"
	@echo "make venv    only make .venv, with what development needs"
	@echo "make lock    pin the newest versions of requirements*.in, with hashes (needs uv)"
	@echo "make clean   remove .venv and those of the frameworks"

run: export DJANGO_DEBUG = 1
run: $(RUN_STAMP)
	@$(PY) manage.py migrate --verbosity 0
	@$(PY) manage.py create_demo_users
	@exec $(PY) manage.py runserver "$(HOST):$(PORT)"

venv: $(DEV_STAMP)

# tests/__main__.py says which sessions this starts, and why.
test: export DJANGO_DEBUG = 1
test: $(DEV_STAMP)
	@exec $(PY) -m tests $(ARGS)

# The whole suite on PostgreSQL and Redis, too: DATABASE_URL and REDIS_URL say where they are.
test-everywhere: export DJANGO_DEBUG = 1
test-everywhere: $(DEV_STAMP)
	@exec $(PY) -m tests --everywhere $(ARGS)

test-frameworks: export DJANGO_DEBUG = 1
test-frameworks: $(FRAMEWORKS_STAMP) $(OPENAI2_STAMP)
	@env -u DATABASE_URL -u REDIS_URL $(FRAMEWORKS_PY) -m pytest $(FRAMEWORKS_TESTS) $(ARGS)
	@env -u DATABASE_URL -u REDIS_URL $(OPENAI2_PY) -m pytest $(FRAMEWORKS_TESTS) $(ARGS)

# The same tests, with the imports of the package that `make package` builds.
test-package: export DJANGO_DEBUG = 1
test-package: $(DEV_STAMP)
	@rm -rf .package && mkdir .package
	@$(PY) package/renamed_checkout.py .package
	@cd .package && env -u DATABASE_URL -u REDIS_URL ../$(PY) -m pytest -q tests/agents tests/runs $(ARGS)

check: export DJANGO_DEBUG = 1
check: $(DEV_STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) manage.py makemigrations --check --dry-run
	$(PY) -m pytest -q $(LAYER_TEST)

format: $(DEV_STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: export DJANGO_DEBUG = 1
bench: $(DEV_STAMP)
	@exec $(PY) -m bench $(ARGS)

package: $(DEV_STAMP)
	@rm -rf dist
	@$(PY) -m pip wheel -q --no-deps --wheel-dir dist .
	@ls dist/*.whl

lock:
	uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade requirements.in -o requirements.txt
	uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade requirements-dev.in -o requirements-dev.txt
	uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade requirements-frameworks.in -o requirements-frameworks.txt
	uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --generate-hashes --upgrade requirements-frameworks-openai2.in -o requirements-frameworks-openai2.txt

clean:
	rm -rf .venv .venv-frameworks .venv-frameworks-openai2 .package dist

# --- the environments: a stamp per requirements file, so that make installs only after a change ------------

# -qq: a newcomer can't act on pip's warnings about indexes and wheels.
# A half-made or foreign .venv (interrupted, moved, without its Python) is made again.
# The first argument is the environment.
define make_venv
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Halting needs Python 3.11 or newer, and $(PYTHON) is" \
			"$$("$(PYTHON)" --version 2>/dev/null || echo not there). Name one that is:" \
			"make $(MAKECMDGOALS) PYTHON=python3.13" >&2; \
		exit 1; }
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(1)
endef

$(RUN_STAMP): requirements.txt
	$(call make_venv,.venv)
	@echo "Installing requirements.txt into .venv ..."
	@$(PY) -m pip install -qq --require-hashes -r requirements.txt
	@touch $(RUN_STAMP)

# requirements-dev.txt has the pins of requirements.txt, too, so it satisfies both.
$(DEV_STAMP): requirements-dev.txt requirements.txt
	$(call make_venv,.venv)
	@echo "Installing requirements-dev.txt into .venv ..."
	@$(PY) -m pip install -qq --require-hashes -r requirements-dev.txt
	@touch $(RUN_STAMP) $(DEV_STAMP)

$(FRAMEWORKS_STAMP): requirements-frameworks.txt
	$(call make_venv,.venv-frameworks)
	@echo "Installing requirements-frameworks.txt into .venv-frameworks ..."
	@$(FRAMEWORKS_PY) -m pip install -qq --require-hashes -r requirements-frameworks.txt
	@touch $(FRAMEWORKS_STAMP)

$(OPENAI2_STAMP): requirements-frameworks-openai2.txt
	$(call make_venv,.venv-frameworks-openai2)
	@echo "Installing requirements-frameworks-openai2.txt into .venv-frameworks-openai2 ..."
	@$(OPENAI2_PY) -m pip install -qq --require-hashes -r requirements-frameworks-openai2.txt
	@touch $(OPENAI2_STAMP)
