# Every target sets itself up: a fresh clone needs Python 3.11 or newer, pip and gcc, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results
DEVICE ?= cuda
# One process a core, four at most: each holds torch.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: install demo test test-slow test-all browser check docs bench gpu leaderboard wheel clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,test,check,docs]'
	touch $@

demo: install
	$(BIN)/densebench demo

test: install
	$(PYTEST) -m "not slow"

test-slow: install browser
	$(PYTEST) -m slow

test-all: install browser
	$(PYTEST)

# Pages are tested in a real Chromium. Where apt-get may not install it, these tests are skipped.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	|| echo "no Chromium, and none can be installed: tests of pages in a browser are skipped"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build

bench: install
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

# What a GPU gives, in ten minutes; GPU_PYTHON is a Python that has torch for CUDA already. DEVICE=cpu rehearses.
gpu: $(if $(GPU_PYTHON),,install)
	$(or $(GPU_PYTHON),$(BIN)/python) tests/benchmarks/gpu --device $(DEVICE)

leaderboard: install
	for format in md csv tex html; do \
		$(BIN)/densebench leaderboard --results $(RESULTS) --format $$format --output $(RESULTS)/leaderboard.$$format || exit 1; \
	done

wheel: install
	$(BIN)/python -m build --wheel

clean:
	rm -rf .venv build dist demo docs/_build docs/generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
