# Everything one does with this book. Every target makes its own environment in .venv when it is missing.
#
#   BASE_PYTHON=python3.12   build the environment with this Python (3.11 or 3.12)
#   PIP_ARGS="..."           extra arguments for pip, such as another index
#   RUN_PYTHON=python3       use this Python as it is, and make no environment (machines without a network)
#   JOBS=2                   how many notebooks, or test processes, run at once
#   REPOSITORY=https://github.com/owner/name   show buttons for Binder and Colab (BRANCH=main; JUPYTERHUB=https://...)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV ?= .venv
JOBS ?= 2
PIP_ARGS ?=
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export TOKENIZERS_PARALLELISM := false
# The book must not reach for the network, and neither may its libraries.
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export STORYDIFF_REPOSITORY := $(REPOSITORY)
export STORYDIFF_BRANCH := $(BRANCH)
export STORYDIFF_JUPYTERHUB := $(JUPYTERHUB)

# Every warning is an error, every reference must resolve; without --all, an incremental build hides warnings.
BUILD := jupyter-book build . --all -W -n --keep-going

ifdef RUN_PYTHON
PY := $(RUN_PYTHON)
ENV :=
DEV :=
GRADING :=
else
PY := $(VENV)/bin/python
ENV := $(VENV)/.stamp-book
DEV := $(VENV)/.stamp-dev
GRADING := $(VENV)/.stamp-grading
# nbgrader and jupyter start other programs of the environment by name
export PATH := $(abspath $(VENV))/bin:$(PATH)
endif

.PHONY: help env book notebooks site lab serve test lint unit smoke nbval testsite browser chromium bench train \
	student course slides gpu experiments refresh shots clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | \
		while IFS=$$'\t' read -r name what; do printf '  make %-12s %s\n' "$$name" "$$what"; done

# ---------------------------------------------------------------- environment
$(VENV)/.stamp-base:
	@found=; for p in $(BASE_PYTHON) python3.11 python3.12 python3 /usr/bin/python3.11 /usr/bin/python3.12; do \
		if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; \
		then found="$$p"; break; fi; done; \
	if [ -z "$$found" ]; then \
		echo "No usable Python: this book needs 3.11 or 3.12 with its venv module, and none was found on the PATH." >&2; \
		echo "Install one (on Debian: apt-get install python3.11-venv), or name one: make BASE_PYTHON=/path/to/python3.12" >&2; \
		exit 1; fi; \
	echo "making $(VENV) with $$found"; "$$found" -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-book: $(VENV)/.stamp-base requirements.txt constraints.txt pyproject.toml
	$(PY) -m pip install -q $(PIP_ARGS) -r requirements.txt
	$(PY) -m pip install -q $(PIP_ARGS) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-grading requirements-dev.txt
	$(PY) -m pip install -q $(PIP_ARGS) -r requirements-dev.txt
	@touch $@

$(VENV)/.stamp-grading: $(VENV)/.stamp-book requirements-grading.txt
	$(PY) -m pip install -q $(PIP_ARGS) -r requirements-grading.txt
	@touch $@

env: $(ENV) ## the environment alone

# ----------------------------------------------------------------------- book
book: notebooks site ## run every chapter, build the site, print its address

notebooks: $(ENV) ## run every chapter into _build/executed
	$(PY) tools/run_notebooks.py --profile cpu --out _build/executed

site: $(ENV) ## build the site from the chapters as last run
	$(BUILD)

lab: $(ENV) ## open the chapters in JupyterLab
	$(PY) -m jupyter lab --notebook-dir=. notebooks

serve: $(ENV) ## serve the built site on http://localhost:8000
	@test -f _build/html/index.html || { echo "There is no site yet: run \`make book\` first." >&2; exit 1; }
	$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

# ---------------------------------------------------------------------- tests
test: lint unit smoke nbval testsite browser ## everything that must hold (lint, units, notebooks, site)
	@echo "all checks passed"

lint: $(DEV)
	$(PY) -m ruff check .
	$(PY) tools/check_notebooks.py

# One thread a process: two OpenMP teams on two cores wait for each other and run several times slower. A file stays
# with one process, so what takes longest begins first (`tests/conftest.py`).
unit: $(DEV)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/site tests

smoke: $(DEV)
	$(PY) tools/run_notebooks.py --profile smoke --out _build/test/executed --jobs $(JOBS) --strict

nbval: $(DEV)
	OMP_NUM_THREADS=1 STORYDIFF_PROFILE=smoke $(PY) -m pytest -q -n $(JOBS) --dist loadfile -p no:cacheprovider \
		--nbval-lax --nbval-sanitize-with tests/notebooks/nbval_sanitize.cfg --nbval-cell-timeout 300 notebooks

# The site that the tests look at is built apart, so that a reader's own build stays as it was.
testsite: $(DEV)
	STORYDIFF_EXECUTED=_build/test/executed $(BUILD) --path-output _build/test

browser: $(DEV) chromium
	STORYDIFF_SITE=_build/test/_build/html $(PY) -m pytest -q -n $(JOBS) --dist loadgroup tests/site

chromium:
	@bash tools/need_chromium.sh

# --------------------------------------------------------------- for makers
bench: $(DEV) chromium ## seconds a panel, what consistency costs, the page that draws beside Python, training (minutes)
	$(PY) benchmarks/bench.py $(ARGS)
	$(PY) benchmarks/bench_attention.py $(ATTENTION_ARGS)
	$(PY) benchmarks/bench_picks.py $(PICKS_ARGS)
	$(PY) benchmarks/bench_page.py $(PAGE_ARGS)
	$(PY) benchmarks/bench_training.py $(TRAINING_ARGS)

train: $(ENV) ## train one part again: make train PART=vae (or clip, unet, judge, ...)
	@test -n "$(PART)" || { echo "Say which part to train: make train PART=vae. The parts:" >&2; \
		$(PY) -m storydiff_lite.training --help >&2; exit 1; }
	$(PY) -m storydiff_lite.training $(PART) $(ARGS)

experiments: $(ENV) ## measure anew what the book's records hold (long)
	$(PY) -m storydiff_lite.experiments $(ARGS)

refresh: $(DEV) ## run chapters and write their outputs back: make refresh [CHAPTER=00]
	$(PY) tools/refresh.py $(CHAPTER)

gpu: $(DEV) ## run every chapter on a GPU, through papermill and nbval; write _build/gpu/report.md
	$(PY) tools/run_notebooks.py --profile gpu --device cuda --out _build/gpu/executed --report _build/gpu/report

shots: $(DEV) chromium ## screenshots of every page: light and dark, wide and phone
	$(PY) tools/shots.py _build/html

# ---------------------------------------------------------------- for teachers
student: $(GRADING) ## the student edition: exercises as stubs, no answers, in student/
	$(PY) tools/editions.py student

course: $(GRADING) ## the graded edition: an nbgrader course in _build/course
	$(PY) tools/editions.py _build/course --course

slides: $(ENV) ## slides of every chapter, for any browser, with no network, in _build/slides
	$(PY) tools/slides.py _build/slides

# A course holds grades and what was handed in, student/ holds answers: neither can be built again.
clean: ## remove what was built (not the environment, not student/ and _build/course)
	@if [ -d _build ]; then find _build -mindepth 1 -maxdepth 1 ! -name course -exec rm -rf {} +; \
		rmdir _build 2>/dev/null || true; fi
	@for kept in student _build/course; do if [ -e "$$kept" ]; then \
		echo "$$kept stays: it may hold answers and grades. Delete it by hand when nobody needs them."; fi; done
