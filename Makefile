# The verbs: demo, test, lint, bench. Each makes the virtual environment first if it is missing or out of date.
# PYTHON=... chooses the interpreter, VENV=... the folder.

VENV ?= .venv
OUTPUT ?= demo
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)
STAMP := $(VENV)/.installed
PY := $(VENV)/bin/python

RESULTS ?= out/benchmarks.json
BENCH := -m pytest benchmarks/bench_*.py -q -rfE --benchmark-only --benchmark-disable-gc --benchmark-quiet

.PHONY: demo test lint bench bench-quick bench-gpu clean help

help:
	@echo "make demo    simulate a ZTF-like field, subtract it, write pictures and tables to $(OUTPUT)/"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   time the operations on this machine, error beside time; RESULTS=FILE gets them as JSON"
	@echo "make bench-quick  the same on small frames in under a minute: judges errors, not time"
	@echo "make bench-gpu    tests, sanitizers, benchmarks and profiles on a CUDA device, with cupy installed for PYTHON"
	@echo "make clean   remove what these made (not $(VENV))"

demo: $(STAMP)
	$(VENV)/bin/astrid-gpu demo -o $(OUTPUT)

test: $(STAMP)
	$(PY) -m pytest -q -n auto --maxprocesses 4

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(STAMP)
	$(PY) $(BENCH) --results $(RESULTS)

bench-quick: $(STAMP)
	$(PY) $(BENCH) --quick --results $(RESULTS)

bench-gpu:
	PYTHON="$(or $(PYTHON),python3)" bash benchmarks/run_gpu.sh

# The first interpreter of at least 3.11 makes the environment; pip runs again only when pyproject.toml changes.
$(STAMP): pyproject.toml
	@if [ ! -x $(PY) ]; then \
	  for candidate in $(CANDIDATES); do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "astrid_gpu needs Python 3.11 or newer; tried: $(CANDIDATES). Say which with: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$found ($$($$found --version))"; \
	  $$found -m venv $(VENV); \
	fi
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(OUTPUT) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks .cuda_host
