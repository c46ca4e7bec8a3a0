# The few commands of the project; continuous integration runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PLANTED := --layout kafka --devices 6 --seed 3

.PHONY: help install demo test check lint types campaign planted crashes mutations fleet bench bench-quick documents format schemas clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(INSTALLED)  ## make .venv and install into it

$(INSTALLED): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 demo")'
	@echo "installing into $(VENV): about two minutes, 1.2 GB, most of it the embedded ClickHouse" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[embedded,simulate,dev]'
	@touch $@

demo: $(INSTALLED)  ## the whole path on this machine for about a minute: phones, gateway, log, warehouse
	@$(BIN)/backhaul demo $(DEMO)

test: $(INSTALLED)  ## every test, on every core: make test PYTEST="-k rollout"
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadgroup $(PYTEST)

check: lint types test  ## what continuous integration runs

lint: $(INSTALLED)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

campaign: $(INSTALLED)  ## faults by the hundred, then every event is counted: make campaign FAULTS=200 SEED=1
	@$(BIN)/python -m tests.campaign --faults $(or $(FAULTS),200) --seed $(or $(SEED),1) $(CAMPAIGN)

# Exit status 1 is the verdict; 2 would be a campaign that could not be held.
planted: $(INSTALLED)  ## break our own code beside Kafka on purpose, and see campaigns notice: two minutes
	$(BIN)/python -m tests.campaign $(PLANTED) --plant forget_ranges --only way.clickhouse:lose_replies --faults 2; [ $$? -eq 1 ]
	$(BIN)/python -m tests.campaign $(PLANTED) --plant forget_origins --only way.A:lose_replies --faults 1; [ $$? -eq 1 ]

crashes: $(INSTALLED)  ## end the reference client at every change to its files, thousands of checks: some minutes
	@$(BIN)/python -m tests.crashes $(CRASHES)

mutations: $(INSTALLED)  ## break the reference client on purpose, 102 ways, and see its tests notice: some minutes
	@$(BIN)/python -m tests.mutations $(MUTATIONS)

fleet: $(INSTALLED)  ## the fleet's commands at full size, kept in tests/fleet/results: make fleet RUNS="simulate versus"
	@$(BIN)/python -m tests.fleet $(RUNS)

bench: $(INSTALLED)  ## our gateway beside the floor and its peers, about eleven minutes; JSON=1 prints JSON
	@JSON=$(JSON) $(BIN)/python -m tests.bench $(BENCH)

bench-quick: $(INSTALLED)  ## ours, the floor and aiohttp alone, in under two minutes
	@JSON=$(JSON) $(BIN)/python -m tests.bench --quick $(BENCH)

documents: $(INSTALLED)  ## put the newest result of the bench into the README, its own page and deploy/CAPACITY.md
	@$(BIN)/python -m tests.bench.documents

format: $(INSTALLED)  ## let ruff rewrite the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(INSTALLED)  ## write the JSON Schema and OpenAPI documents again from the types
	$(BIN)/python -m gateway.openapi

clean:  ## remove what the commands above made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
