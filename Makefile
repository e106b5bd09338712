# Every target makes what it needs: `make demo` and `make test` work on a fresh clone on a fresh machine.
#   make demo    the tutorial's run: sin(x), degree 5, 80000 epochs, with a picture at the end
#   make test    what CI runs: lint, reference tests, interpreter tests, codegen gate, wheel
#   make matrix  the reference tests as other processors run them; PYTHONS="python3.12 ..." adds interpreters
#   make gpu-codegen  compiles for an H100, with Triton 3.6, what `make gpu` will launch there, and shows what spills
#   make attack  random hostile problems for an hour; SECONDS=600 SEED=7 KINDS=fit,train change what it does
#   make gpu     on a machine with a GPU, all that it has to say in four minutes: it installs nothing, and
#                `make gpu PYTHON=python3 SECONDS=240 RESULTS=folder` uses that interpreter; see bench/gpu
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
# A worker for each core, 4 at most: each takes about a gigabyte. One that has no more tests takes some of another's.
# Workers have threads of their own, as many as cores: those that wait must not spin, or they keep others from working.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

.PHONY: setup demo test lint format reference matrix attack interpreter codegen codegen-full gpu-codegen ceilings wheel bench bench-full gpu clean

setup: $(STAMP)

# torch goes first and alone: everything that asks for torch later finds it there and takes no other build.
$(STAMP): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m polyfit demo

test: lint reference interpreter codegen wheel

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: setup
	$(PYTEST) --doctest-modules -m 'not interpreter and not codegen' polyfit tests

# Other vector instructions, BLAS kernels, thread counts and orders of the tests; see tests/matrix.py.
matrix: setup
	$(BIN)/python tests/matrix.py $(addprefix --python=,$(PYTHONS)) $(LEGS)

# `make test` holds a short form of it. The seed is printed, and the status is 1 if anything is wrong.
attack: setup
	$(BIN)/python tests/attack/run.py --seconds $(or $(SECONDS),3600) $(addprefix --seed=,$(SEED)) $(addprefix --kinds=,$(KINDS))

# The kernels in Triton's interpreter; and a rehearsal of what a GPU runs: its tests and the phases of `make gpu`.
interpreter: setup
	TRITON_INTERPRET=1 $(PYTEST) -m 'interpreter or cuda' tests/kernels tests/attack $(wildcard tests/test_*.py)

codegen: setup
	$(PYTEST) -m codegen tests/kernels

# Every basis with every loss, on every device: no part of `make test`, for the minutes that it takes.
codegen-full: setup
	PYTHONPATH=.:tests:kernels $(BIN)/python tests/kernels/codegen.py full

# What the first phases of `make gpu` launch, compiled with the Triton of the GPU builds of torch 2.11, in an environment
# of its own. torch is that of constraints.txt and goes first and alone. The interpreter of Triton 3.6 fails with numpy
# 2.4. No part of `make test`: it installs a second torch, and takes some minutes.
GPU_VENV := .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed
GPU_PIP := $(GPU_VENV)/bin/python -m pip --disable-pip-version-check install --quiet

$(GPU_STAMP): constraints.txt Makefile
	test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv $(GPU_VENV)
	$(GPU_PIP) $$(grep '^torch==' constraints.txt)
	$(GPU_PIP) triton==3.6.0 'numpy<2.4' packaging $$(grep -E '^(hypothesis|mpmath|pytest|pytest-xdist)==' constraints.txt)
	touch $@

gpu-codegen: $(GPU_STAMP)
	OMP_WAIT_POLICY=passive PYTHONPATH=.:tests:kernels $(GPU_VENV)/bin/python tests/kernels/gpu_codegen.py

# Record the registers of all kernels with the installed Triton, after a change that was looked at.
ceilings: setup
	PYTHONPATH=.:tests:kernels $(BIN)/python tests/kernels/codegen.py

wheel: setup
	$(BIN)/python tests/wheel_check.py

bench: setup
	$(BIN)/python -m bench

# The map of a CPU with all points, with one and two threads, quiet and beside busy neighbours: an hour on a machine that
# does nothing else. It goes on where it was stopped. `python -m bench.map` is the quick form, of three minutes.
bench-full: setup
	$(BIN)/python -m bench.map --full --threads 1,2 --busy both --record
	$(BIN)/python -m bench.report

# PYTHONPATH instead of an installation: the machine may have no network and no pip to write with. Where there is no GPU
# that torch can use, it says so at once, with status 1.
gpu: export PYTHONPATH := .:kernels
gpu:
	$(PYTHON) -m bench.gpu --seconds $(or $(SECONDS),240) --results "$(or $(RESULTS),bench/results)"

clean:
	rm -rf $(VENV) $(GPU_VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
