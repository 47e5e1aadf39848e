# Everything a newcomer needs: make demo, make test. Both set up .venv first, with uv and the
# committed lock; uv itself is installed privately into .uv where it is missing.

SHELL := /bin/bash
PYTHON ?= python3
UV := $(shell command -v uv || echo .uv/bin/uv)
export UV_PYTHON_DOWNLOADS := never

.PHONY: setup demo test check contract fuzz clean

setup: .venv/.ready

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "graft needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'

.venv/.ready: pyproject.toml uv.lock | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --locked --quiet --python $(PYTHON)
	@touch $@

demo: setup
	.venv/bin/graft demo

# Formatting, types, then every test. Model zoos are sampled here; `make contract` runs them whole.
test: check
	.venv/bin/python -m pytest -n 2 --dist loadfile

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

contract: setup
	.venv/bin/python tests/contract/table.py

# Damaged files for every way into graft; a fault is saved below tests/fuzz/cases and becomes a test.
SEED ?= 0
SECONDS ?= 60
fuzz: setup
	.venv/bin/python tests/fuzz/fuzz.py --seed $(SEED) --seconds $(SECONDS)

clean:
	rm -rf .venv .uv demo
