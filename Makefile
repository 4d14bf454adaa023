# Everything starts here: `make` alone says what there is. Needs python3 (3.11 or later) and make, nothing else; the rest
# is put into .venv and .cache of this folder, and, as root, Debian packages for the tests' and the benchmark's servers.

SHELL := bash
.DEFAULT_GOAL := help
.SUFFIXES:

# Which Python makes .venv.
PYTHON ?= python3
export PYTHON

# Tests start hundreds of sidecars, and each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
# More arguments for the command behind a target: make test ARGS="-k retry", make bench ARGS=--quick
ARGS ?=

# Five workers on two cores, each a file at a time: many tests mostly wait. The acceptance tests come first, for they take the longest.
BY_FILE := --dist loadfile --no-loadscope-reorder
PARALLEL := -n 5 $(BY_FILE)

# Without the few tests that cost much and mostly show once more, and with more around it, what others show: who changes
# something waits five minutes. Continuous integration runs all of them.
AFFORDABLE := $(if $(CI)$(ALL),,-m "not costly")

# However a run goes wrong, it ends: then it is interrupted as by Ctrl-C, and what it started goes with it.
BOUND := 30m
bounded = timeout --foreground --signal=INT --kill-after=1m $(BOUND) $(1) || { code=$$?; \
    case $$code in 124|137) echo "The tests were not done after $(BOUND), and were stopped" >&2 ;; esac; exit $$code; }

# Tests whose own processes are looked into, by the tracer of coverage.py; what they start is not. Three workers keep two cores
# busy then.
covered = rm -rf .cache/coverage && mkdir -p .cache/coverage && \
    $(call bounded,$(PY) -m coverage run -m pytest -q -n 3 $(BY_FILE) $(1) $(ARGS)) && $(PY) scripts/coverage-table

# What is written in C: the scanners among it. Installing builds it, where there is a compiler.
IN_C := $(wildcard sidecar/http/h1/*.[ch] sidecar/amqp/wire/*.[ch] sidecar/agent/*.c)

# One stamp per extra of pyproject.toml; a change there installs again.
.venv/.stamp: pyproject.toml scripts/ensure-venv $(IN_C)
	@scripts/ensure-venv
	@touch $@

.venv/.stamp-%: pyproject.toml scripts/ensure-venv $(IN_C)
	@scripts/ensure-venv $*
	@touch $@

.cache/compiled/.stamp: pyproject.toml setup.py scripts/ensure-compiled $(shell find sidecar -type f -not -name '*.pyc' -not -name '*.so')
	@scripts/ensure-compiled wheel
	@touch $@

.venv-compiled/.stamp: .cache/compiled/.stamp
	@scripts/ensure-compiled install dev
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
	    while IFS=$$'\t' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

# Compiling takes minutes, so the first command does not do it.
.PHONY: install
ifneq ($(FAST),)
install: .cache/compiled/.stamp
	@scripts/ensure-compiled install $(EXTRAS)
	@echo "Installed: .venv-compiled/bin/sidecar, compiled"
else
install: .venv/.stamp ## The command, as .venv/bin/sidecar (EXTRAS=amqp: with what only some need; FAST=1: compiled, .venv-compiled/bin/sidecar)
	@scripts/ensure-venv $(EXTRAS)
	@echo "Installed: .venv/bin/$$(.venv/bin/sidecar --version)"
	@! .venv/bin/sidecar --version | grep -q "in Python," || \
	    echo "Reading heads and AMQP in Python is slower: install a C compiler and Python's headers (gcc, python3-dev), then make install once more"
	@echo "make install FAST=1 compiles its hot path: two minutes, half the CPU time per request"
endif

.PHONY: demo
demo: .venv/.stamp ## A small mesh: services, sidecars, failures and what becomes of them
	@$(PY) -m sidecar demo $(ARGS)

.PHONY: services
services: .venv/.stamp-dev ## The two services of examples/ with their sidecars and all that they need, until Ctrl-C
	@scripts/ensure-servers test
	@$(PY) -m bench.services --serve $(ARGS)

.PHONY: test
test: .venv/.stamp-dev ## The tests, against real servers where they can be had (ALL=1: also those that cost much; COVERAGE=1: all, and branches are counted)
	@scripts/ensure-servers test
ifneq ($(COVERAGE),)
	@$(call covered,)
else ifeq ($(ARGS),)
	@$(call bounded,$(PY) -m pytest -q $(PARALLEL) $(AFFORDABLE))
else
	@$(PY) -m pytest $(ARGS)
endif

.PHONY: test-without-c
test-without-c: .venv/.stamp-dev ## Those of heads, smuggling and AMQP's frames with nothing read in C, as where there is no compiler
	@export SIDECAR_SCANNER=python; $(call bounded,$(PY) -m pytest -q -n 3 $(BY_FILE) $(addprefix tests/,http amqp/wire amqp/relay) $(ARGS))

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

# What is installed is tested, not the sources of this folder: neither pytest nor a child that it starts has those on its
# path (hence PYTHONSAFEPATH), and tests/conftest.py has that checked. What is compiled has its tests in these folders.
COMPILED_PYTEST := .venv-compiled/bin/python -m pytest -o pythonpath=tests
COMPILED_TESTS := $(addprefix tests/,agent amqp cache core endpoints exchange filters http http_queue net resilience storage tcp) \
    $(addprefix tests/acceptance/test_,leaks.py mesh_consul.py lifecycle.py tcp_servers.py amqp_pika.py amqp_frames.py)

.PHONY: test-compiled
test-compiled: .venv-compiled/.stamp ## All tests against the compiled build
	@scripts/ensure-servers test
ifeq ($(ARGS),)
	@export SIDECAR_COMPILED=1 PYTHONSAFEPATH=1; $(call bounded,$(COMPILED_PYTEST) -q $(PARALLEL))
else
	@export SIDECAR_COMPILED=1 PYTHONSAFEPATH=1; $(COMPILED_PYTEST) $(ARGS)
endif

.PHONY: test-hot-path
test-hot-path: .venv-compiled/.stamp ## Those of them that are of what is compiled, and of a whole data plane
	@scripts/ensure-servers test
	@export SIDECAR_COMPILED=1 PYTHONSAFEPATH=1; $(call bounded,$(COMPILED_PYTEST) -q $(PARALLEL) $(COMPILED_TESTS))

# The engine is Debian's, unpacked into .cache and started by the tests. COMPILE=0: the hot path is not compiled, which takes minutes.
.PHONY: test-docker
test-docker: .venv/.stamp-dev ## The image, and meshes of containers, in a Docker engine of its own (root; a quarter of an hour)
	@scripts/ensure-consul >/dev/null && scripts/ensure-docker || [[ -z $$CI ]]
	@export SIDECAR_DOCKER=1; $(PY) -m pytest -q -s -o time_limit=3600 tests/docker $(ARGS)

.PHONY: coverage
coverage: .venv/.stamp-dev ## The unit tests, and which lines and branches they reach, by package; fails below tests/coverage_floors.toml
	@scripts/ensure-servers test
	@$(call covered,tests $(addprefix --ignore tests/,acceptance bench loadtest))

# What pyproject.toml names, one change at a time, each in a process of its own that may take five times as long as its tests.
# What is done is kept in mutants/: stopped, it goes on where it was.
.PHONY: mutate
mutate: .venv/.stamp-mutate ## Change the mechanisms' code in small ways and see that tests notice (an hour or two, and goes on where it was; ARGS='sidecar.resilience.*' for some)
	@SIDECAR_SCANNER=python SIDECAR_THOROUGH=1 timeout --foreground --signal=INT --kill-after=1m 2h nice $(PY) -m mutmut run --max-children 2 $(ARGS)
	@$(PY) -m mutmut results
	@echo "docs/testing.md has a verdict on each that is known; mutmut show NAME prints one"

.PHONY: fuzz-scanner
fuzz-scanner: .venv/.stamp-dev ## Look for heads, and frames of AMQP, of which C and Python say different things (five minutes each; ARGS='--of heads', '--of runs', '--seconds N', --update)
	@$(PY) scripts/fuzz-scanner $(ARGS)

.PHONY: bench
bench: .venv/.stamp-bench .venv-compiled/.stamp ## Beside Envoy, HAProxy and before RabbitMQ, and the spool: CPU, latency, memory (an hour; ARGS='--part amqp' for one part, --quick for a few minutes)
	@scripts/ensure-servers bench
	@$(PY) -m bench $(ARGS)

.PHONY: bench-history
bench-history: .venv/.stamp-dev .venv-compiled/.stamp ## A line in docs/benchmarks.md for this commit: instructions of an exchange and of a message, both builds (valgrind; a minute)
	@command -v valgrind >/dev/null || scripts/apt-install valgrind
	@$(PY) -m bench.history

.PHONY: simulate
simulate: .venv/.stamp ## The resilience of docs/resilience.md in virtual time: its figures and plots, written anew (a few minutes)
	@$(PY) -m sidecar.simulate all --page docs/resilience.md $(ARGS)

.PHONY: loadtest
loadtest: .venv/.stamp-loadtest ## Burst and sustained load through a small mesh, or through HOST=http://127.0.0.1:PORT
	@$(PY) -m loadtest $(if $(HOST),--host $(HOST)) $(ARGS)

.PHONY: dist
dist: .venv/.stamp-dist ## What a release is made of, into dist/: sources, wheels (one compiled), what is in the image, hashes
	@scripts/make-dist

.PHONY: test-dist
test-dist: dist ## Install that as users do, without a compiler, and try it (ten minutes)
	@scripts/test-dist

.PHONY: lock-image
lock-image: .venv/.stamp-dev ## Take today's releases into images/*.txt, with their hashes (needs the image's Python, 3.11)
	@$(PY) scripts/lock-image

.PHONY: audit
audit: .venv/.stamp-dev ## Look those and what is installed up in a database of advisories: make audit ADVISORIES=FOLDER-OR-ZIP
	@$(PY) scripts/audit $(ARGS)

.PHONY: clean
clean: ## Remove what was installed, built and cached in this folder
	rm -rf .venv .venv-compiled .venv-newest .cache mutants build dist man *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
