# Everything a fresh machine needs is a Python >= 3.11 and a C++20 compiler; the rest is set up here on first use.
#
#   make demo        raw text to a talking model in a few minutes
#   make test        lint, types and all tests that take minutes in all
#   make test-long   the tests that take longer, and the others on examples they have not seen
#   make test-interop  exported models in other programs, ctranslate2 among them, in an environment of their own
#   make docs        the documentation as a site, into build/docs/site
#   make fuzz        random inputs against the C++ core under sanitizers, for FUZZ_SECONDS (60) in all
#   make clean       remove what was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INTEROP := .venv-interop
INTEROP_PIP := $(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NATIVE := CMakeLists.txt $(wildcard native/*.cpp native/*.hpp)

.PHONY: demo test test-long test-interop fuzz docs check format clean

demo: $(VENV)/demo.stamp
	$(BIN)/groundup demo

test: check
	$(BIN)/python -m pytest -q -n auto -m "not long and not gpu"

test-long: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -m "long"
	GROUNDUP_EXPLORE=1 $(BIN)/python -m pytest -q -n auto -m "not long and not gpu"

test-interop: $(INTEROP)/stamp
	$(INTEROP)/bin/python -m pytest -q tests/interop/own_environment.py

fuzz:
	$(MAKE) --no-print-directory -C native/fuzz run BUILD=$(CURDIR)/build/fuzz FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60)

docs: $(VENV)/docs.stamp
	$(BIN)/python docs/build.py

check: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/tools.stamp: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("groundup needs Python >= 3.11, this is " + sys.version.split()[0] + "; set PYTHON=") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the build tools and torch (the first time only)"
	$(PIP) cmake ninja nanobind numpy scikit-build-core torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/tools.stamp pyproject.toml $(NATIVE)
	$(PIP) --no-build-isolation --editable ".[plot]"
	touch $@

$(VENV)/test.stamp: $(VENV)/tools.stamp pyproject.toml $(NATIVE)
	$(PIP) --no-build-isolation --editable ".[test]"
	touch $@

$(INTEROP)/stamp: constraints.txt pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP_PIP) cmake ninja nanobind numpy scikit-build-core torch
	$(INTEROP_PIP) --no-build-isolation --editable ".[interop]"
	touch $@

$(VENV)/docs.stamp: $(VENV)/tools.stamp pyproject.toml $(NATIVE)
	$(PIP) --no-build-isolation --editable ".[docs]"
	touch $@

clean:
	rm -rf build $(VENV) $(INTEROP) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src -name '*.so' -delete
