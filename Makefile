# make up       everything on this machine: broker, swarm, WORKERS workers, GATEWAYS gateways from PORT on
# make test     every test; needs nothing running
# make check    style, types, import rules
# make bench    the worker beside a plain Petals client; what a gateway adds, relays and holds; what more
#                of both add, and what they cost the broker; most of an hour
# make faults   every way to fail, as often as its criterion asks; an hour; COROLLA_SEED=... repeats a run
# make soak     answers are read for MINUTES minutes while something breaks every few seconds
# make clean    forget what was installed, and the local stack's state

PYTHON ?= python3.11
WORKERS ?= 1
GATEWAYS ?= 1
PORT ?= 8000
MINUTES ?= 120

BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: up test check bench faults soak clean

up: $(INSTALLED)
	@exec $(BIN)/python -m deploy.stack --workers $(WORKERS) --gateways $(GATEWAYS) --port $(PORT)

test: $(INSTALLED)
	@exec $(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench.engine
	$(BIN)/python -m tests.bench.head --dtype bfloat16
	$(BIN)/python -m tests.bench.head --dtype float32
	$(BIN)/python -m tests.bench.first_byte
	$(BIN)/python -m tests.bench.relay
	$(BIN)/python -m tests.bench.idle
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.bench.cost

# What stands beside tests/faults has a fault in it as well: see tests/faults/README.md.
FAULTS := tests/faults tests/e2e/test_clients.py tests/e2e/test_sentinels.py tests/deploy/test_stack.py

faults: $(INSTALLED)
	COROLLA_FAULTS=full $(BIN)/python -m pytest $(FAULTS)
	$(BIN)/python -m tests.bench.idle

soak: $(INSTALLED)
	COROLLA_FAULTS=full $(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

clean:
	rm -rf .venv var gateway/web/node_modules

$(INSTALLED): constraints.txt pyproject.toml gateway/web/package-lock.json
	@command -v $(PYTHON) >/dev/null || \
		{ echo "Corolla needs Python 3.11, but there is no '$(PYTHON)'; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Corolla needs Python 3.11, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m deploy.install
	@touch $@
