# `make demo` and `make test` need nothing but Python >= 3.11 and make. Both create .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers a core; the tests that measure time run alone, at the end (tests/support/side_by_side.py).
SIDE_BY_SIDE := -n auto --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo check format test coverage bench soak lambda-zip clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(STAMP) ## the whole story on embedded servers, in half a minute
	$(BIN)/reconcile demo

check: $(STAMP) ## lint, form, types, layout: what to run before every commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/unit/test_layout.py

format: $(STAMP) ## put the code into the formatter's form
	$(BIN)/ruff format .

test: check ## everything, in parallel; PYTEST_ARGS="tests/unit -k name" for a part
	tests/platforms/install-tools.sh
	$(BIN)/pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

coverage: $(STAMP) ## the tests again, measured: lines and branches of core, compare and runs, commands under test included
	rm -rf .coverage
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(STAMP) ## what it costs, as ratios; BENCH_ARGS="--help" (docs/performance.md)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

soak: $(STAMP) ## fault tests for an hour or two
	$(BIN)/pytest tests/faults --soak --timeout 0 $(SIDE_BY_SIDE) $(PYTEST_ARGS)

lambda-zip: $(STAMP) ## dist/reconcile-aws-lambda.zip
	$(MAKE) -C functions $@

$(STAMP): pyproject.toml tests/standin/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -e tests/standin
	touch $@

clean: ## remove what was built
	rm -rf $(VENV) .coverage build dist *.egg-info
