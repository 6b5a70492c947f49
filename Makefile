# make demo   install, train a HyperNoise LoRA for the embedded generator, compare it with the base
# make test   install, lint, check the format, run the tests
# make test-host   the node pack in a real ComfyUI: HYPERNOISE_COMFY_ROOT says where, else ~/comfy/ComfyUI
# make embedded   train the embedded generator, its reward and its adapter again from nothing (hours)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-host format embedded clean

demo: $(READY)
	$(BIN)/python -m train.demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

test-host: $(READY)
	$(BIN)/python -m pytest tests/host

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

embedded: $(READY)
	$(BIN)/python -m train.embedded

clean:
	rm -rf $(VENV) outputs

# torch goes first: a package that only asks for "torch" would choose its own build of it.
$(READY): pyproject.toml requirements.txt constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-dev.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-dev.txt --editable '.[train,dev]'
	touch $(READY)
