# The commands of this repository. Each target sets up the environment that it needs; `make` alone lists them.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
PARITY_VENV := .venv-parity
PARITY_READY := $(PARITY_VENV)/.ready
AOT_VENV := .venv-aot
AOT_READY := $(AOT_VENV)/.ready
WHEEL_VENV := .venv-wheel
# The quick tests compile without most optimisations (tests/conftest.py); the others as users do.
OPTIMISED := JAX_DISABLE_MOST_OPTIMIZATIONS=0
# A process for each core, four at most: each holds compiled programs. A file stays together, for its fixtures do.
PYTEST := $(PY) -m pytest -q -n auto --maxprocesses 4 --dist loadfile
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# What the wheel is asked in its empty environment, and what it must answer.
WHEEL_VIDEO ?= vxlpro_jax/assets/demo.mp4
WHEEL_QUESTION ?= Which digit is on the card?
WHEEL_ANSWER ?= 5

.PHONY: help venv demo test slow optimised parity aot lint bench tiny wheel-test clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: $(READY) ## create .venv with everything that running and testing need

demo: $(READY) ## answer questions about a video: make demo [VIDEO=path QUESTION="..."]
	$(PY) -m launch.demo $(if $(VIDEO),--video "$$VIDEO") $(if $(QUESTION),--question "$$QUESTION")

test: $(READY) ## run the tests (minutes); ARGS="-k name" narrows them
	$(PYTEST) $(ARGS)

slow: $(READY) ## run the tests marked slow (real widths, long videos, training)
	$(OPTIMISED) $(PYTEST) -m slow $(ARGS)

optimised: $(READY) ## compare with the golden numbers and on a mesh as users compile: with all of XLA's optimisations
	$(OPTIMISED) $(PYTEST) tests/test_golden.py tests/parallel $(ARGS)

parity: $(PARITY_READY) ## compare with transformers' own models, in an environment with torch
	$(OPTIMISED) $(PARITY_VENV)/bin/python -m pytest -q -rs -m "slow or not slow" tests/parity $(ARGS)

aot: $(AOT_READY) ## compile for accelerators, without one, and check what long contexts need there (2 GB of compilers)
	$(AOT_VENV)/bin/python -m bench.aot_memory $(ARGS)

lint: $(READY) ## ruff, format check and type check
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(READY) ## measure speed and memory on this machine
	$(PY) -m bench.run $(ARGS)

tiny: $(READY) ## train the embedded tiny model again from nothing
	$(PY) -m launch.make_tiny $(ARGS)

wheel-test: $(READY) ## build the wheel, install it in an empty environment and ask it a question
	rm -rf build dist $(WHEEL_VENV)
	$(PY) -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python $(PIP_INSTALL) dist/*.whl
	cp "$(WHEEL_VIDEO)" $(WHEEL_VENV)/video.mp4
	cd $(WHEEL_VENV) && bin/vxlpro ask video.mp4 "$(WHEEL_QUESTION)" --json > answer.json
	cat $(WHEEL_VENV)/answer.json
	grep -q '"text": *"$(WHEEL_ANSWER)' $(WHEEL_VENV)/answer.json

clean: ## remove what building and testing left behind (environments and runs/ stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# An environment is set up again only when the files it is made from change; one that is already there is kept.
$(READY): requirements.txt pyproject.toml
	$(call make_venv,$(VENV))
	$(PY) $(PIP_INSTALL) -r requirements.txt
	$(PY) $(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(PARITY_READY): requirements-parity.txt requirements.txt pyproject.toml
	$(call make_venv,$(PARITY_VENV))
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) -r requirements-parity.txt
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(AOT_READY): requirements-aot.txt requirements.txt pyproject.toml
	$(call make_venv,$(AOT_VENV))
	$(AOT_VENV)/bin/python $(PIP_INSTALL) -r requirements-aot.txt
	$(AOT_VENV)/bin/python $(PIP_INSTALL) --no-deps --editable .
	@touch $@

define make_venv
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("$(PYTHON) is Python %d.%d; vxlpro_jax needs 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
@echo "Setting up $(1) from pinned requirements (about a minute and 1 GB; once)"
@$(1)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
endef
