PYTHON ?= python3
VENV ?= .venv
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test faults clean

demo: $(VENV)/run.stamp  ## train both bundles on the phantom and compare them: demo/
	$(VENV)/bin/python -m benchmarks.phantom demo

test: $(VENV)/dev.stamp  ## lint, types, tests
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/python -m pytest

faults: $(VENV)/dev.stamp  ## every fault that a run must survive, and a table of them
	$(VENV)/bin/python -m pytest -m fault --fault-table

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt && touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt && touch $@

clean:
	rm -rf $(VENV) demo runs
