# RALB: `make setup`, then `make demo` and `make test`. Everything is installed below this folder (.tools, .venv).
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV_VERSION := 0.13.8
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ralb-setup
export UV_PYTHON_DOWNLOADS := never

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## install everything the project needs, below this folder

.tools/bin/uv:
	@python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "RALB needs Python 3.11 or newer with venv. On Debian or Ubuntu: apt-get install -y python3 python3-venv"; exit 1; }
	python3 -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): pyproject.toml uv.lock | $(filter .tools/bin/uv,$(UV))
	$(UV) sync --frozen --quiet
	@touch $@

generate: setup ## rebuild everything generated: protobuf code, the hold filter, CRDs
	$(BIN)/python tools/generate.py

lint: setup ## ruff, mypy strict, layers, drift of generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p ralb_api -p ralb_operator -p ralb_extproc -p ralb_sim -p ralb_cli -p cluster_tools
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check

format: setup ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

control-plane: setup ## build what cluster tests run on: API server, etcd, kubectl, Helm (once: minutes)
	$(BIN)/python tools/build_cluster_tools.py

test: lint ## lint, then every test, real Envoy and real API server included
	$(BIN)/python tools/build_cluster_tools.py --or-skip
	$(BIN)/pytest -q $(PYTEST_ARGS)

demo: setup ## three tiers of simulated vLLM pods behind a real Envoy, and a dozen requests (DEMO_EXIT=1 ends it)
	$(BIN)/ralb demo $(if $(filter 1,$(DEMO_EXIT)),--exit)

chart: setup ## render, lint and test the charts, on a real API server where there is one
	$(BIN)/pytest -q tests/chart $(PYTEST_ARGS)

images: ## build the images ralb-operator and ralb-processor (needs docker; IMAGE_ARGS="--build-arg ...")
	@for target in operator processor; do \
	  docker build --target $$target --tag ralb-$$target:$(VERSION) --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(IMAGE_ARGS) . || exit 1; done

e2e: setup ## the whole on a kind cluster, removed afterwards (needs docker, kind, kubectl, helm; E2E_ARGS=--dry-run)
	$(BIN)/python e2e/run.py $(E2E_ARGS)

bench: bench-extproc bench-control-plane ## all benchmarks

bench-extproc: setup ## added latency and CPU of the processor behind Envoy against Envoy alone
	$(BIN)/python bench/extproc.py $(BENCH_ARGS)

bench-placement: setup ## placement policies on traces in the offline simulator (BENCH_ARGS=--quick: minutes, all: hours)
	$(BIN)/python bench/placement.py $(BENCH_ARGS)

bench-control-plane: setup control-plane ## from a change in the cluster to Envoy's ACK; the operator's start, memory and CPU
	$(BIN)/python bench/control_plane.py $(BENCH_ARGS)

bench-decision: setup ## what hashing a prompt, ordering pods and charging one cost, and the prefix index's memory
	$(BIN)/python bench/decision.py $(BENCH_ARGS)

bench-placement-live: setup ## strategies through real Envoy and simulated pods against the offline simulator: the same ordering?
	$(BIN)/python bench/placement_live.py $(BENCH_ARGS)

bench-faults: setup ## a slow pod, one with errors, a restarted one, one with stuck metrics: their share of the traffic, plotted
	$(BIN)/python bench/faults.py $(BENCH_ARGS)

clean: ## remove what setup and tests made
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results

.PHONY: help setup generate lint format control-plane test demo bench bench-placement bench-decision bench-extproc bench-control-plane bench-placement-live bench-faults chart images e2e clean
