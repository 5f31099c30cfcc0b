# Two commands need nothing but Python >= 3.11 and make: `make demo` and `make test`. Both create .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test bench soak lambda-zip clean

demo: $(STAMP)
	$(BIN)/reconcile demo

test: $(STAMP)
	tests/platforms/install-tools.sh
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest $(PYTEST_ARGS)

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

soak: $(STAMP)
	$(BIN)/pytest tests/faults --soak $(PYTEST_ARGS)

lambda-zip: $(STAMP)
	$(MAKE) -C functions $@

$(STAMP): pyproject.toml tests/standin/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -e tests/standin
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
