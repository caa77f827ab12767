# Every target does its own set-up; `make` alone lists them. Only Python 3.11+, pip and make are needed.
.DEFAULT_GOAL := help
.PHONY: help setup demo up test check bench bench-quick soak chaos env lock sbom audit
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
TOOLS := .venv/tools
# Where the shell forbids bytecode, each of the many processes would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment from the lock file

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "Installing the pinned packages (about half a minute) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## Tell the story of the system on real servers, checking every figure
	@$(BIN)/python -m deploy.local.demo

up: $(READY) ## Run everything until Ctrl-C: API 8000, webhooks 8001, Flower 5555
	@$(BIN)/python -m deploy.local.up

test: $(READY) ## Run all tests, on SQLite and on PostgreSQL
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY) ## Format, lint, types, import contracts, migrations on both databases
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.local.check_migrations

bench: $(READY) ## Measure everything that has a target, as ratios in one run (up to 12 minutes)
	@$(BIN)/python -m bench

bench-quick: $(READY) ## The same with one short loop (under 2 minutes): does it still run, and about how fast
	@$(BIN)/python -m bench --quick

soak: $(READY) ## Weigh every process for SOAK_MINUTES (60) under a steady load: none may grow
	@$(BIN)/python -m bench.soak --minutes $${SOAK_MINUTES:-60}

chaos: $(READY) ## Break everything for CHAOS_MINUTES (5) under load, then 400,000 random ledger commands
	@$(BIN)/python -m deploy.local.chaos
	@seed=$${ORACLE_SEED:-$$(date +%s)}; echo "Random ledger commands against the oracle; again with ORACLE_SEED=$$seed"; \
	ORACLE_SEED=$$seed ORACLE_COMMANDS=$${ORACLE_COMMANDS:-400000} $(BIN)/python -m pytest -q tests/unit/test_rules_against_the_oracle.py

env: ## Write .env and secrets/ for docker compose, once
	@$(PYTHON) deploy/env.py

LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet
IMAGES := api webhooks workers migrate flower simulator

# The images' packages are those of requirements.lock: what was tested is what is deployed.
lock: $(READY) ## Renew requirements.lock from pyproject.toml, and from it those of the images
	$(LOCK) pyproject.toml --group dev --upgrade -o requirements.lock
	$(LOCK) --group pyproject.toml:tools --upgrade -o deploy/requirements/tools.lock
	for image in $(IMAGES); do $(LOCK) pyproject.toml --group $$image --constraints requirements.lock -o deploy/requirements/$$image.lock || exit 1; done

$(TOOLS): $(READY) deploy/requirements/tools.lock
	@$(BIN)/python -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/tools.lock

sbom: $(TOOLS) ## Write sbom/, a bill of materials for each image (CycloneDX JSON) from its lock
	@mkdir -p sbom
	@for image in $(IMAGES); do \
	  PYTHONWARNINGS=ignore::UserWarning $(TOOLS)/bin/cyclonedx-py requirements deploy/requirements/$$image.lock --pyproject pyproject.toml \
	    --output-reproducible --validate --of JSON -o sbom/$$image.cdx.json && echo "sbom/$$image.cdx.json" || exit 1; done

audit: $(TOOLS) ## Look for known weaknesses in the packages of the lock (asks PyPI)
	@$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip -r requirements.lock
