# Everything starts here: `make` alone says what there is. Needs python3 (3.11 or later) and make, nothing else; the rest
# is put into .venv and .cache of this folder, and, as root, Debian packages for the tests' and the benchmark's servers.

SHELL := bash
.DEFAULT_GOAL := help
.SUFFIXES:

# Which Python makes .venv.
PYTHON ?= python3
export PYTHON

PY := .venv/bin/python
# More arguments for the command behind a target: make test ARGS="-k retry", make bench ARGS=--quick
ARGS ?=

# One stamp per extra of pyproject.toml; a change there installs again.
.venv/.stamp: pyproject.toml scripts/ensure-venv
	@scripts/ensure-venv
	@touch $@

.venv/.stamp-%: pyproject.toml scripts/ensure-venv
	@scripts/ensure-venv $*
	@touch $@

.PHONY: help
help: ## What you can do here
	@echo "A sidecar: discovery, balancing, breakers, retries, limits, tracing and metrics beside each container."
	@echo
	@echo "Two commands to begin with:"
	@echo "  make demo        see a small mesh at work, on this machine alone"
	@echo "  make test        convince yourself"
	@echo
	@echo "All of them:"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	    while IFS=$$'\t' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

.PHONY: install
install: .venv/.stamp ## The command itself, as .venv/bin/sidecar

.PHONY: demo
demo: .venv/.stamp ## A small mesh: services, sidecars, failures and what becomes of them
	@$(PY) -m sidecar demo $(ARGS)

.PHONY: test
test: .venv/.stamp-dev ## All tests, against real servers where they can be had
	@scripts/ensure-servers test
	@$(PY) -m pytest $(ARGS)

.PHONY: lint
lint: .venv/.stamp-dev ## Style and types, strictly
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --quiet --check --diff
	@$(PY) -m mypy --no-error-summary
	@echo "lint: clean"

.PHONY: format
format: .venv/.stamp-dev ## Bring the code into the form that lint wants
	@$(PY) -m ruff check --quiet --fix-only
	@$(PY) -m ruff format

.PHONY: bench
bench: .venv/.stamp-bench ## Beside Envoy and HAProxy: CPU, latency, memory (15 minutes; ARGS=--quick for 3)
	@scripts/ensure-servers bench
	@$(PY) -m bench $(ARGS)

.PHONY: loadtest
loadtest: .venv/.stamp-loadtest ## Burst and sustained load through a small mesh, or through HOST=http://127.0.0.1:PORT
	@$(PY) -m loadtest $(if $(HOST),--host $(HOST)) $(ARGS)

.PHONY: clean
clean: ## Remove what was installed, built and cached in this folder
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
