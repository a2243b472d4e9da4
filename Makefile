# make demo   a real survey, from raw rows to a release folder      make check   format, lint, types, import rules
# make test   the fast tests (make test-all: every test)            make clean   remove what these made

PYTHON ?= python3
VENV   ?= .venv
OUT    ?= demo-out
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --constraint constraints.txt
FAST   := not slow and not statistical and not browser

.PHONY: demo test test-slow test-browser test-all check clean

demo: $(VENV)/demo.stamp
	$(BIN)/dpsynth demo --out $(OUT)
	@echo "make demo: done; open $(OUT)/release/report.html (shareable) or $(OUT)/internal/fidelity.html (yours alone)"

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "$(FAST)"
	@echo "make test: the fast tests passed; make test-all runs every test"

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "slow or statistical"
	@echo "make test-slow: slow and statistical tests passed"

test-browser: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m browser
	@echo "make test-browser: reports were opened in a browser"

test-all: $(VENV)/dev.stamp
	$(BIN)/python -m pytest
	@echo "make test-all: every test passed"

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "make check: format, lint, types and import rules hold"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The first installation takes minutes (torch is large); a stamp says that it is done.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing dpsynth with the demo's data into $(VENV) ..."
	$(PIP) --editable ".[demo]"
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing dpsynth with all that tests need into $(VENV) ..."
	$(PIP) --editable ".[demo,dev]"
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) $(OUT) build dist dpsynth.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@echo "make clean: removed the environment, the demo's folder and all caches"
