# make demo: four videos from text. make test: checks and tests. make gpu: all that needs a GPU.
# All install into .venv first.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
SOURCES = pixelwizard tests measure

.PHONY: demo test gpu clean

demo: $(VENV)/.run
	$(VENV)/bin/pixelwizard anchor=few4

test: $(VENV)/.dev
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

gpu: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m gpu
	$(VENV)/bin/pixelwizard bench bench=full run_dir=outputs/gpu

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[dev]"
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist
