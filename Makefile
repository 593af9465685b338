PYTHON ?= python3
VENV ?= .venv
ANNOTATE_VENV ?= .venv-annotate
ANNOTATE_PYTHON ?= $(shell for p in $(PYTHON) python3.11; do $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$p && break; done)
WORKERS ?= auto --maxprocesses 4
export OMP_WAIT_POLICY ?= passive
quoted = '$(subst ','\'',$(value $(1)))'
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: demo study test test-all faults bundles release annotate studies annotate-env clean

demo: $(VENV)/run.stamp  ## train two bundles on the phantom and compare them: demo/
	$(VENV)/bin/python -m benchmarks.demo

test: $(VENV)/dev.stamp  ## lint, types, tests
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(PYTEST)

test-all: $(VENV)/dev.stamp  ## every test, the slow ones too
	$(PYTEST) -m ""

faults: $(VENV)/dev.stamp  ## every fault that a run must survive, and a table of them
	$(PYTEST) -m fault --fault-table

bundles: $(VENV)/run.stamp  ## write bundles/*/configs from distribution/configs
	$(VENV)/bin/python -m distribution.configs

release: $(VENV)/run.stamp  ## one zip for each pretrained bundle, model_info.json, SHA256SUMS: dist/
	$(VENV)/bin/python -m distribution.build

study: $(VENV)/run.stamp  ## two folders in, one page out: make study IMAGES=DIR LABELS=DIR OUT=DIR [BUDGET=2h] [PATIENT=REGEX] [CLASSES=a,b]
	@test -n $(call quoted,OUT) || { echo "Say where everything goes: make study IMAGES=DIR LABELS=DIR OUT=DIR"; false; }
	$(VENV)/bin/python -m custom.study $(call quoted,OUT) $(if $(value IMAGES),--images $(call quoted,IMAGES)) $(if $(value LABELS),--labels $(call quoted,LABELS)) $(if $(BUDGET),--budget $(BUDGET)) $(if $(value PATIENT),--patient $(call quoted,PATIENT)) $(if $(value CLASSES),--classes $(call quoted,CLASSES))

annotate: studies $(ANNOTATE_VENV)/annotate.stamp  ## MONAI Label: make annotate STUDIES=DIR [MODEL=NAME] [PORT=8000], or STUDY=DIR
	$(ANNOTATE_VENV)/bin/python -m annotate.start $(if $(value STUDY),--study $(call quoted,STUDY),--studies $(call quoted,STUDIES)) $(if $(MODEL),--model "$(MODEL)") $(if $(PORT),--port $(PORT)) $(if $(HOST),--host $(HOST))

studies:
	@test -n $(call quoted,STUDIES)$(call quoted,STUDY) || { echo "Say where the images are: make annotate STUDIES=DIR, or STUDY=DIR"; false; }

annotate-env: $(ANNOTATE_VENV)/annotate.stamp

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt && touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt && touch $@

# MONAI Label has an environment of its own: its pins and those above exclude each other. torch first, by itself: its own
# requirements would bring what does not start (requirements-annotate.txt says what).
$(ANNOTATE_VENV)/annotate.stamp: requirements-annotate.txt
	@$(if $(ANNOTATE_PYTHON),true,echo "MONAI Label needs Python 3.11 (its own requirements end there), none was found: ANNOTATE_PYTHON=/path/to/python3.11"; false)
	$(ANNOTATE_PYTHON) -m venv $(ANNOTATE_VENV)
	$(ANNOTATE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(ANNOTATE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-annotate.txt && touch $@

clean:
	rm -rf $(VENV) $(ANNOTATE_VENV) demo runs dist
