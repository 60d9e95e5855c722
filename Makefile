# GPT-OSS on Triton. `make help` lists everything.

MODEL ?= demo
PORT ?= 8000
PROFILE ?=
URL ?=
DURATION ?= 10m
DURATION_S ?= 30
USERS ?= 8
ARGS ?=

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && \
	command -v $$python && break; done)
# PyPI's build (for GPUs: CUDA 13.0, driver 580 or newer), or the one pip is configured for. Another, for older drivers and cards:
# make setup TORCH_INSTALL="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cu126"
# (beside the registry: torch's own index has not the versions of its dependencies that the lock names)
TORCH_INSTALL ?= torch==2.13.0

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input -qq
LOCK := requirements/lock.txt
HASHED := requirements/lock-hashed.txt
# Written last, and holds the folder it was made for: a copied or moved environment is made anew.
STAMP := $(VENV)/.setup-done
# There while a setup is under way: one that was interrupted is started over.
UNFINISHED := $(VENV)/.setup-unfinished

# What the wheel's tritonserver asks of Python, looked for before minutes are spent on installing: a stub for its version (there
# are none after 3.13) and the libpython that it links, where gptoss_client.triton_runtime will look for it at the end. Of
# another tritonserver, which that module prefers, nothing is known here.
define CHECK_PYTHON
import os, shutil, sys, sysconfig

version = "%d.%d" % sys.version_info[:2]
if sys.platform != "linux":
    sys.exit("error: tritonserver runs on Linux only (Windows: in WSL 2): elsewhere take Docker, "
             "docker compose -f docker/compose.yaml -f docker/compose.cpu.yaml up")
if sys.version_info < (3, 11):
    sys.exit("error: GPT-OSS on Triton needs Python 3.11, 3.12 or 3.13, but %s is %s" % (sys.executable, version))
if shutil.which("tritonserver") or os.path.exists("/opt/tritonserver/bin/tritonserver"):
    sys.exit()
if sys.version_info >= (3, 14):
    sys.exit("error: Triton's Python backend has no stub for Python %s (%s): name a Python 3.11, 3.12 or 3.13 with "
             "make setup PYTHON=/path/to/python3.11" % (version, sys.executable))
library = "libpython%s.so.1.0" % version
folders = [sysconfig.get_config_var("LIBDIR") or "", os.path.join(sys.base_prefix, "lib")]
folders += [os.path.join(folder, sysconfig.get_config_var("MULTIARCH") or "") for folder in folders]
if not any(os.path.exists(os.path.join(folder, library)) for folder in folders):
    sys.exit("error: %s has no %s, which Triton's Python backend links: on Debian and Ubuntu, apt install libpython%s; "
             "elsewhere use a Python built with --enable-shared" % (sys.executable, library, version))
endef

ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.DEFAULT_GOAL := help
.PHONY: help setup serve stop status test test-p0 test-performance load load-sweep soak gpu-check gpu-session gpu-bench check lock alert-rules clean

help:  ## list the targets
	@echo "usage: make TARGET [MODEL=demo|20b|120b] [PORT=8000] [PROFILE=latency_first|quality_first|balanced] [ARGS=…]"
	@sed -nE 's/^([a-z0-9-]+):.*  ## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP)  ## install the locked environment into .venv and make tritonserver runnable
	@:

serve: setup  ## serve MODEL on PORT until Ctrl-C (ARGS=--detach: in the background)
	@$(VENV)/bin/gptoss serve --model $(MODEL) --port $(PORT) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

stop:  ## end the running server
	@test -x $(VENV)/bin/gptoss || { echo "nothing is set up here yet: make setup" >&2; exit 1; }
	@$(VENV)/bin/gptoss stop $(ARGS)

status:  ## say what runs, and how it is
	@test -x $(VENV)/bin/gptoss || { echo "nothing is set up here yet: make setup" >&2; exit 1; }
	@$(VENV)/bin/gptoss status $(ARGS)

test: setup  ## run the tests (ARGS="-k words" picks some): those of speeds alone, then all others side by side; the few that fail, once more
	@$(VENV)/bin/python tests/support/side_by_side.py $(ARGS)

test-p0: setup  ## run the operators' tests against MODEL, or the server at URL=http://…
	@MODEL=$(MODEL) $(VENV)/bin/pytest tests/p0 $(if $(URL),--url $(URL)) $(ARGS)

test-performance: setup  ## check the service targets under a load of USERS for DURATION_S seconds, on MODEL or URL
	@MODEL=$(MODEL) USERS=$(USERS) DURATION_S=$(DURATION_S) \
	  $(VENV)/bin/pytest -q -s tests/p0/test_performance_targets.py $(if $(URL),--url $(URL)) $(ARGS)

load: setup  ## USERS people chat with MODEL, or the server at URL, for DURATION; ends with a report (RATE=5: messages/s; WEB=1)
	@$(VENV)/bin/python -m load.run --model $(MODEL) --users $(USERS) --duration $(DURATION) $(if $(PROFILE),--profile $(PROFILE)) \
	  $(if $(URL),--url $(URL)) $(if $(RATE),--rate $(RATE)) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT)) $(if $(WEB),--web) \
	  -- $(ARGS)

load-sweep: setup  ## the highest rate of messages at which MODEL, or the server at URL, holds its targets (STEP=20s BUDGET=10m)
	@$(VENV)/bin/python -m load.sweep --model $(MODEL) $(if $(PROFILE),--profile $(PROFILE)) $(if $(URL),--url $(URL)) \
	  $(if $(STEP),--step $(STEP)) $(if $(BUDGET),--budget $(BUDGET)) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT)) -- $(ARGS)

soak: setup  ## mixed load on MODEL by USERS for DURATION (90s, 10m, 2h): do memory, files and blocks stay flat?
	@$(VENV)/bin/python -m load.soak --duration $(DURATION) --users $(USERS) --model $(MODEL) $(ARGS)

gpu-check: setup  ## on a GPU: kernels, full-size models, memory, tokens/s, in one table (ARGS="--shapes 20b")
	@status=0; $(VENV)/bin/pytest -q tests/unit/test_kernels.py tests/unit/test_kernels_attention.py tests/unit/test_kernels_skinny.py \
	  tests/unit/test_kernels_step.py tests/gpu \
	  tests/unit/test_kernels_in_engine.py tests/unit/test_kernels_sampling.py || status=$$?; \
	$(VENV)/bin/python -m load.gpu_check $(ARGS) && exit $$status

gpu-session: setup  ## on a GPU: kernels' tests, 20B's gpu-check and the benches, the most telling first, within minutes (ARGS="--minutes 10 --out FOLDER")
	@$(VENV)/bin/python -m load.gpu_session $(ARGS)

gpu-bench: setup  ## on a GPU: steps against the memory's limit, time to the first token (ARGS="--transformers --profile --out FOLDER")
	@$(VENV)/bin/python -m load.gpu_bench $(ARGS)

check: setup  ## run ruff, mypy and the import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q tests/contract/test_imports.py

lock:  ## resolve pyproject.toml's ranges anew into requirements/lock.txt, and with hashes into lock-hashed.txt
	@bash requirements/lock.sh "$(PYTHON)" "$(TORCH_INSTALL)" $(LOCK) $(HASHED)

alert-rules:  ## write docker/prometheus/rules.yml into Kubernetes' PrometheusRule
	@{ echo '# docker/prometheus/rules.yml as an object, for the overlay'"'"'s namespace and labels. Made by `make alert-rules`.'; \
	  printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: gptoss\nspec:\n'; \
	  sed -e '/^#/d' -e 's/^./  &/' docker/prometheus/rules.yml; } > docker/kubernetes/components/monitoring/rules.yaml

clean:  ## stop the server, remove the environment and all that is made from it (checkpoints, kept responses and load reports stay)
	@test ! -x $(VENV)/bin/gptoss || $(VENV)/bin/gptoss stop || true
	test ! -d .run || find .run -mindepth 1 -maxdepth 1 ! -name 'responses.sqlite*' ! -name load -exec rm -rf {} +
	rm -rf $(VENV) .triton build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): export PYTHON_CHECK = $(CHECK_PYTHON)
$(STAMP): $(LOCK) $(HASHED) pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: GPT-OSS on Triton needs Python 3.11, 3.12 or 3.13, on Linux: install one," \
	  "or name it with make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if test -e $(UNFINISHED); then echo "==> an earlier setup did not finish: starting over"; rm -rf $(VENV); fi
	@if test -e $(STAMP) && test "$$(cat $(STAMP))" != "$(CURDIR)"; then rm -rf $(VENV); fi
	@test -x $(VENV)/bin/python || $(PYTHON) -c "$$PYTHON_CHECK"
	@mkdir -p $(VENV) && touch $(UNFINISHED)
	@if ! test -x $(VENV)/bin/python; then \
	  echo "==> making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); fi
	@echo "==> installing the $$(grep -c == $(HASHED)) packages of $(HASHED)"
	@$(PIP) install --no-deps --require-hashes --requirement $(HASHED)
	@echo "==> installing torch ($(TORCH_INSTALL)): the largest part"
	@$(PIP) install --constraint $(LOCK) $(TORCH_INSTALL)
	@echo "==> installing this project, editable"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@echo "==> making tritonserver runnable"
	@$(VENV)/bin/python -m gptoss_client.triton_runtime
	@rm -f $(UNFINISHED)
	@echo "$(CURDIR)" > $(STAMP)
	@echo "==> ready: make serve"
