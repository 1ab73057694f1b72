# make demo    the main job on the embedded world, from set-up to a served model's command line
# make test    set-up, all gates, all tests
# make bar P=1f    measures one claimed figure afresh and writes benchmarks/results/1f.json

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
CONFIG ?= configs/world.yaml

.PHONY: demo test test-slow check bar clean
.DEFAULT_GOAL := demo

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup
	@scripts/setup $(PYTHON) $(VENV)

demo: $(VENV)/.ready
	@$(VENV)/bin/lorecast run $(CONFIG)

check: $(VENV)/.ready
	@scripts/check $(VENV)

test: check
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "not slow"

test-slow: $(VENV)/.ready
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m slow

bar: $(VENV)/.ready
	@$(VENV)/bin/python -m benchmarks.harness $(P)

clean:
	rm -rf build workspace
