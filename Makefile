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

# Three workers on two cores, each a file at a time: many tests mostly wait. The acceptance tests come first, for they take the longest.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

# However a run goes wrong, it ends: then it is interrupted as by Ctrl-C, and what it started goes with it.
BOUND := 30m
bounded = timeout --foreground --signal=INT --kill-after=1m $(BOUND) $(1) || { code=$$?; \
    case $$code in 124|137) echo "The tests were not done after $(BOUND), and were stopped" >&2 ;; esac; exit $$code; }

# One stamp per extra of pyproject.toml; a change there installs again.
.venv/.stamp: pyproject.toml scripts/ensure-venv
	@scripts/ensure-venv
	@touch $@

.venv/.stamp-%: pyproject.toml scripts/ensure-venv
	@scripts/ensure-venv $*
	@touch $@

.venv-compiled/.stamp: .venv/.stamp-dev setup.py scripts/ensure-compiled $(shell find sidecar -name '*.py')
	@scripts/ensure-compiled
	@touch $@

.PHONY: help
help: ## What you can do here
	@echo "A sidecar: discovery, balancing, breakers, retries, limits, tracing and metrics beside each container."
	@echo
	@echo "Two commands to begin with:"
	@echo "  make demo          see a small mesh at work, on this machine alone"
	@echo "  make test          convince yourself"
	@echo
	@echo "All of them:"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
	    while IFS=$$'\t' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

.PHONY: install
install: .venv/.stamp ## The command itself, as .venv/bin/sidecar

.PHONY: demo
demo: .venv/.stamp ## A small mesh: services, sidecars, failures and what becomes of them
	@$(PY) -m sidecar demo $(ARGS)

.PHONY: test
test: .venv/.stamp-dev ## All tests, against real servers where they can be had
	@scripts/ensure-servers test
ifeq ($(ARGS),)
	@$(call bounded,$(PY) -m pytest -q $(PARALLEL))
else
	@$(PY) -m pytest $(ARGS)
endif

.PHONY: test-newest
test-newest: ## The same with the newest releases of everything, previews of what the sidecar needs included
	@scripts/ensure-newest
	@scripts/ensure-servers test
	@$(call bounded,.venv-newest/bin/python -m pytest -q $(PARALLEL) $(ARGS))

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

.PHONY: compiled
compiled: .venv-compiled/.stamp ## .venv-compiled: the sidecar as it goes into the image, its hot path compiled

# With what is installed, not with the sources of this folder (hence the pythonpath; SIDECAR_COMPILED has that checked). Not
# the acceptance tests of what is not compiled, and not those that put stand-ins where compiled code wants the real
# thing: the filters' and the routes'.
.PHONY: test-compiled
test-compiled: .venv-compiled/.stamp ## The tests of the data plane, against the compiled build
	@scripts/ensure-servers test
	@export SIDECAR_COMPILED=1; $(call bounded,.venv-compiled/bin/pytest -q $(PARALLEL) -o pythonpath=tests \
	    tests/core tests/exchange tests/http tests/tcp tests/net tests/resilience tests/endpoints \
	    tests/acceptance/test_leaks.py tests/acceptance/test_mesh_consul.py tests/acceptance/test_lifecycle.py \
	    tests/acceptance/test_tcp_servers.py tests/acceptance/test_amqp_pika.py tests/acceptance/test_amqp_frames.py \
	    --deselect tests/exchange/test_routes.py $(ARGS))

# Without what only whole processes against real servers show, and in CI as well: it costs twice the time of these tests.
.PHONY: coverage
coverage: .venv/.stamp-dev ## Which lines and branches the unit tests reach, by package; fails below tests/coverage_floors.toml
	@scripts/ensure-servers test
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	@$(call bounded,$(PY) -m coverage run -m pytest -q $(PARALLEL) tests \
	    --ignore tests/acceptance --ignore tests/bench --ignore tests/loadtest $(ARGS))
	@$(PY) scripts/coverage-table

# What pyproject.toml names, one change at a time, each in a process of its own that may take 15 times as long as its tests.
# What is done is kept in mutants/: stopped, it goes on where it was.
.PHONY: mutate
mutate: .venv/.stamp-mutate ## Change the mechanisms' code in small ways and see that tests notice (half an hour; ARGS='sidecar.resilience.*' for some)
	@timeout --foreground --signal=INT --kill-after=1m 2h nice $(PY) -m mutmut run --max-children 2 $(ARGS)
	@$(PY) -m mutmut results
	@echo "docs/testing.md has a verdict on each that is known; mutmut show NAME prints one"

.PHONY: bench
bench: .venv/.stamp-bench .venv-compiled/.stamp ## Beside Envoy, HAProxy and before RabbitMQ, and the spool: CPU, latency, memory (an hour; ARGS='--part amqp' for one part, --quick for a few minutes)
	@scripts/ensure-servers bench
	@$(PY) -m bench $(ARGS)

.PHONY: loadtest
loadtest: .venv/.stamp-loadtest ## Burst and sustained load through a small mesh, or through HOST=http://127.0.0.1:PORT
	@$(PY) -m loadtest $(if $(HOST),--host $(HOST)) $(ARGS)

.PHONY: lock-image
lock-image: .venv/.stamp-dev ## Take today's releases into images/*.txt, with their hashes (needs the image's Python, 3.11)
	@$(PY) scripts/lock-image

.PHONY: audit
audit: .venv/.stamp-dev ## Look those and what is installed up in a database of advisories: make audit ARGS='--db FOLDER-OR-ZIP'
	@$(PY) scripts/audit $(ARGS)

.PHONY: clean
clean: ## Remove what was installed, built and cached in this folder
	rm -rf .venv .venv-compiled .venv-newest .cache mutants build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
