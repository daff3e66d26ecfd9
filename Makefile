# Every target sets up what it needs by itself; set-up speaks on stderr.
PY := .venv/bin/python
STAMP := .venv/.stamp

.PHONY: help setup demo test unit e2e interop test-orders lint bench sim-ci sim-night sim-mutants lock clean

help:            ## what there is
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml bootstrap.sh
	@./bootstrap.sh 1>&2
	@touch $(STAMP)

setup: $(STAMP)  ## the virtual environment, from the lock file

demo: $(STAMP)   ## three daemons, one answer, one of them killed (ARGS=--json)
	@.venv/bin/weft demo --once $(ARGS)

test: lint       ## lint, the whole suite, then the simulated set that every change has to pass
	@$(PY) -m pytest -q $(ARGS)
	@$(PY) -m simulations.running.campaign ci

unit: $(STAMP)   ## the suite without real processes
	@$(PY) -m pytest -q --ignore=tests/e2e --ignore=tests/interop $(ARGS)

test-orders: $(STAMP)  ## the suite without real processes and simulations, with tasks in other orders (SEEDS="1 2 3")
	@for seed in $(or $(SEEDS),1 2 3); do echo "seed $$seed"; \
		WEFT_TEST_SEED=$$seed $(PY) -m pytest -q --ignore=tests/e2e --ignore=tests/interop --ignore=tests/simulations \
		--ignore=tests/mutants $(ARGS) || exit; done

e2e: $(STAMP)    ## real processes only
	@$(PY) -m pytest -q tests/e2e $(ARGS)

interop: $(STAMP)  ## js-libp2p and weft, both ways; needs Node.js and the npm registry
	@npm ci --prefix tests/interop/js --no-audit --no-fund --no-update-notifier --loglevel=error 1>&2
	@$(PY) -m pytest -q tests/interop $(ARGS)

lint: $(STAMP)   ## ruff, mypy, import contracts
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && .venv/bin/lint-imports

bench: $(STAMP)  ## figures as JSON lines (NAME=mesh, or NAME=mesh:hop and the like)
	@$(PY) -m tests.benchmarks $(NAME) $(ARGS)

sim-ci: $(STAMP)  ## the corpus and 60 seeds of the swarm, simulated: one JSON object
	@$(PY) -m simulations.running.campaign ci

sim-night: $(STAMP)  ## 300 longer seeds of the swarm, and 20 of 200 nodes; goes on where it was stopped
	@$(PY) -m simulations.running.campaign night

sim-mutants: $(STAMP)  ## planted bugs, one at a time: which seed of the swarm finds each (ARGS='--seeds 60 NAME')
	@$(PY) -m tests.mutants $(ARGS)

lock: setup      ## resolve the lock file anew
	@.venv/bin/uv pip compile --quiet --group dev pyproject.toml --python-version 3.11 -o requirements.lock 1>&2
	@sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' requirements.lock

clean:           ## remove what set-up and tests made
	rm -rf .venv build sweeps tests/interop/js/node_modules *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache
