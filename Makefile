# `make` lists the targets. All but help and clean first make .venv with the files whose hashes are in requirements.lock,
# and update it when setup.py, constraints.txt or requirements.lock has changed. torch and what it brings with it are
# pinned by version (constraints.txt): its builds for CPUs and for each CUDA have the same version and other hashes.
#   PYTHON=/path/to/python3.12   the interpreter to make .venv with (default: python3.11, python3.12 or python3)
#   CUDA=cu126                   the build of torch for that CUDA, from PyTorch's own index; .venv keeps it from then on
#   PYTEST_ARGS="-k padding"     more options for pytest
# pip's own settings hold (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf): for a mirror, or a local build of torch.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed-in
PYTHON ?=
PYTEST_ARGS ?=
MADE_WITH := $(shell cat $(VENV)/cuda 2>/dev/null)
CUDA ?= $(MADE_WITH)

# .venv works only in the folder where it was made, so the stamp holds that folder's path.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
USABLE := import os, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) or \
    os.path.exists("$(STAMP)") and open("$(STAMP)").read() != "$(CURDIR)")

# One package, antlr4-python3-runtime, has no wheel: the pinned setuptools builds it, whatever pip would choose.
# The pinned packages of CUDA itself are those of PyPI's torch; another build brings its own.
PINS := $(if $(CUDA),$(VENV)/constraints.txt,constraints.txt)
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USE_PEP517=1 $(BIN)/python -m pip install
HASHED := $(PIP) --require-hashes --no-deps --no-build-isolation -r
TORCH = torch==$(shell sed -n 's/^torch==//p' constraints.txt)$(CUDA:%=+%)
INDEX := $(CUDA:%=--extra-index-url https://download.pytorch.org/whl/%)
UNHASHED := -e '^\#' -e '^$$' -e '^torch' -e '^cuda' -e '^nvidia' -e '^triton'

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint docs wheel venv lock sbom clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## pretrain a small Linformer on the documentation of installed packages; results in demo-run/
	$(BIN)/linformer demo

test: lint ## lint, then run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-fast: $(STAMP) ## run the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP) ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(STAMP) ## build the wheel in dist/
	rm -rf build
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .

venv: $(STAMP) ## only make .venv

lock: ## write requirements.lock anew from constraints.txt (pip install uv)
	grep -v $(UNHASHED) constraints.txt | uv pip compile - --no-deps --universal --python-version 3.11.5 --generate-hashes \
	  --no-header --no-annotate -q | { sed '/^[^\#]/,$$d' requirements.lock; cat; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

sbom: $(STAMP) ## a software bill of materials of .venv in sbom.json, CycloneDX (pip install cyclonedx-bom)
	cyclonedx-py environment $(BIN)/python --output-reproducible --output-file sbom.json

clean: ## remove .venv, demo-run, what was built, and all caches
	rm -rf $(VENV) demo-run build dist site sbom.json *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that was moved here, or whose interpreter is gone, is as good as absent.
ifneq ($(shell $(BIN)/python -c '$(USABLE)' 2>/dev/null && echo usable),usable)
.PHONY: $(STAMP)
endif
ifneq ($(CUDA),$(MADE_WITH))
.PHONY: $(STAMP)
endif

$(STAMP): setup.py constraints.txt requirements.lock
	@$(BIN)/python -c '$(USABLE)' 2>/dev/null || { \
	  for python in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3); do \
	    "$$python" -c '$(SUPPORTED)' 2>/dev/null && break; python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "Python 3.11 or 3.12 is needed and $(or $(PYTHON),none on PATH) is neither:" \
	      "install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; \
	  fi; \
	  if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	  "$$python" -m venv --clear $(VENV); }
	@echo "Installing the pinned packages into $(VENV): some minutes, once."
	@rm -f $(STAMP)
	$(if $(CUDA),@grep -v -e '^cuda' -e '^nvidia' -e '^triton' constraints.txt > $(PINS))
	@sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > $(VENV)/setuptools.lock
	$(HASHED) $(VENV)/setuptools.lock
	$(HASHED) requirements.lock
	$(PIP) -c $(PINS) $(TORCH) $(INDEX)
	$(PIP) -c $(PINS) --no-build-isolation -e '.[dev]'
	@# fairseq brings the torchaudio of CUDA, with which transformers fails where torch is another build.
	@$(BIN)/python -c 'import torchaudio' 2>/dev/null || $(BIN)/python -m pip uninstall -q -y torchaudio
	$(if $(CUDA),@echo $(CUDA) > $(VENV)/cuda)
	@printf %s "$(CURDIR)" > $(STAMP)
