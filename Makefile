# Everything runs inside .venv, which is made on first use from the exact pins of requirements.lock.
# Flags for the programs: make train ARGS="--epochs 2 --only gated_pixelcnn", make test ARGS="-k sampling".

PYTHON ?= python3
ARGS ?=
STORAGE ?= storage
BIN := .venv/bin

# A local Ray leaves a token in ~/.ray, and `ray start` then demands it; this makes every command here present it.
export RAY_AUTH_MODE ?= token
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# mkdocs-material tells at every build that a later MkDocs will not do; the lock has the one that does
export NO_MKDOCS_2_WARNING := 1

# The stamp's name carries a checksum of all that decides what is installed: a change installs again, nothing else does.
STAMP := .venv/installed-$(shell (cat requirements.lock pyproject.toml; pwd) | cksum | tr ' ' '-')

.DEFAULT_GOAL := help
.PHONY: help install train serve test test-browser test-docs test-compiled test-faults lint format docs docs-serve bench ui clean clean-all

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install the pinned packages

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: no '$(PYTHON)' found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), this needs 3.11 or newer; name one: make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt install python3-venv)"; exit 2; }
	@echo "installing the pinned packages into .venv (once, a few minutes)"
	@rm -f .venv/installed-*
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@# `ray start` and `ray job submit` present a token, wherever .venv is active; Ray itself would make it readable by all
	@grep -q RAY_AUTH_MODE .venv/bin/activate || echo 'export RAY_AUTH_MODE=token' >> .venv/bin/activate
	@test -e ~/.ray/auth_token || (umask 077; $(BIN)/ray get-auth-token --generate >/dev/null 2>&1)
	@chmod 600 ~/.ray/auth_token
	@touch $@

train: $(STAMP) ## prepare the data, train every model of the suite, report (ARGS="--epochs 2")
	@$(BIN)/python pipelines/train_all.py $(ARGS)

serve: $(STAMP) ## serve models over HTTP, and the studio for a browser; trains a small model first where there is none (STORAGE=folder)
	@$(BIN)/python pipelines/serve.py --train --storage "$(STORAGE)" $(ARGS)

test: lint ## all checks, then all tests but those of test-browser, test-compiled and test-faults (ARGS="-k name")
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --max-worker-restart 0 --dist loadscope --no-loadscope-reorder $(ARGS)

test-docs: $(STAMP) ## run every command and every Python block of README and guides, with quick settings (ARGS="README.md", ARGS=--write)
	@# threads that wait for work, spinning, hold up the many small programs of the pages
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.docs.run_pages $(ARGS)

test-compiled: $(STAMP) ## the tests that compile the passes of every architecture: needs g++ (ARGS="-k name")
	@$(BIN)/python -m pytest -q -m compiled $(ARGS)

test-faults: $(STAMP) ## the tests that end processes, servers and machines; as root installs iproute2 and postgresql (ARGS="-k name")
	@.ci/programs
	@$(BIN)/python -m pytest -q -m faults $(ARGS)

test-browser: $(STAMP) ## the tests that work the studio in a browser; as root installs chromium where it is missing (ARGS="-k name")
	@.ci/chromium
	@$(BIN)/python -m pytest -q -m browser tests/studio $(ARGS)

lint: $(STAMP) ## style, types, import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/python -m mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >.import-rules.txt 2>&1 || { cat .import-rules.txt; rm -f .import-rules.txt; exit 1; }
	@rm -f .import-rules.txt
	@echo "style, types and import rules: passed"

format: $(STAMP) ## rewrite the sources in the project's style
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

docs: $(STAMP) ## build the site of the documentation in site/; a dead link fails (ARGS="--site-dir FOLDER")
	@$(BIN)/python -m mkdocs --quiet build --strict $(ARGS)
	@echo "open site/index.html in a browser"

docs-serve: $(STAMP) ## show the site on http://127.0.0.1:8080, built again when a page changes
	@$(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8080 $(ARGS)

# main_job and published have no quick form: they are left out there
BENCHMARKS := $(if $(findstring --quick,$(ARGS)),,main_job published) data data_feeding training beside_busy conditioning sampling compression tuning serving

bench: $(STAMP) ## run all benchmarks in full, hours (ARGS=--quick: those that have a quick form, minutes)
	@set -e; for name in $(BENCHMARKS); do echo "$$name"; $(BIN)/python -m benchmarks.$$name $(ARGS); done

ui: $(STAMP) ## show runs and models in a browser (STORAGE=folder or s3://bucket/prefix)
	@set -e; uri=$$($(BIN)/python -c 'import sys; from pixelmodels.errors import exit_with; from pixelmodels.storage import Storage; \
	  from pixelmodels.tracking.location import tracking_uri; exit_with(lambda: print(tracking_uri(Storage(sys.argv[1]))))' "$(STORAGE)"); \
	export MLFLOW_BACKEND_STORE_URI="$$uri"; \
	shown=$$($(BIN)/python -c 'import os; from pixelmodels.errors import shown; print(shown(os.environ["MLFLOW_BACKEND_STORE_URI"]))'); \
	case "$$uri" in http:*|https:*) echo "open $$shown in a browser: it is an MLflow server, which shows its runs itself"; exit 0;; esac; \
	echo "MLflow on http://127.0.0.1:5000 (stop with ctrl-c)"; \
	case "$$uri" in sqlite:*) echo "it shows $$shown";; esac; \
	$(BIN)/python -m mlflow ui --host 127.0.0.1 --port 5000 $(ARGS)

clean: ## remove caches; keeps .venv, data and runs
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@rm -rf site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info

clean-all: clean ## remove .venv too; keeps data and runs
	@rm -rf .venv
