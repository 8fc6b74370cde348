# Every target sets itself up: a fresh clone needs Python 3.11 or newer, pip and gcc, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results

.PHONY: install demo test check bench leaderboard wheel clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,check]'
	touch $@

demo: install
	$(BIN)/densebench demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

leaderboard: install
	for format in md csv tex html; do \
		$(BIN)/densebench leaderboard --results $(RESULTS) --format $$format --output $(RESULTS)/leaderboard.$$format || exit 1; \
	done

wheel: install
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
