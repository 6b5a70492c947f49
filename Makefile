# make demo   install, train a HyperNoise LoRA for the embedded generator, compare it with the base
# make test   install, lint, check format and types, run the tests in two processes (PROCESSES=0 for none but its own;
#             EVERYTHING=1 for the long ones too, as CI does)
# make test-host   the node pack in a real ComfyUI: HYPERNOISE_COMFY_ROOT says where, else ~/comfy/ComfyUI
# make family-table   try every image family of that ComfyUI's again, and write docs/models.md's table
# make reward-packages   the published image-reward and hpsv2, in an environment of their own (Python 3.10), against ours
# make benchmark   the paper's comparisons on the embedded generator: benchmarks/results, docs/results.md (ARGS=--fresh)
# make embedded   train the embedded generator, its reward and its adapter again from nothing (hours)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PYTHON310 ?= python3.10
PACKAGES := .venv-reward-packages
PACKAGES_SITE := $(PACKAGES)/lib/python3.10/site-packages

export OMP_NUM_THREADS ?= 1
PROCESSES ?= 2

.PHONY: demo test test-host family-table format benchmark embedded reward-packages clean

demo: $(READY)
	$(BIN)/python -m train.demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) $(if $(EVERYTHING),-m 'not full_size')

test-host: $(READY)
	$(BIN)/python -m pytest tests/host

family-table: $(READY)
	PYTHONPATH=tests $(BIN)/python -m host.family_table

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(READY)
	$(BIN)/python -m benchmarks.paper $(ARGS)

embedded: $(READY)
	$(BIN)/python -m train.embedded

reward-packages: $(PACKAGES)/ready
	$(PACKAGES)/bin/python -m benchmarks.reward_packages

clean:
	rm -rf $(VENV) $(PACKAGES) outputs

# torch goes first: a package that only asks for "torch" would choose its own build of it.
$(READY): pyproject.toml requirements.txt constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints-dev.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints-dev.txt --editable '.[train,dev]'
	touch $(READY)

# hpsv2's wheel lacks CLIP's vocabulary, which openai-clip has.
$(PACKAGES)/ready: benchmarks/reward-packages.txt
	@command -v $(PYTHON310) >/dev/null || { echo "image-reward's timm needs Python 3.10: make reward-packages PYTHON310=<its path>"; exit 2; }
	$(PYTHON310) -m venv $(PACKAGES)
	$(PACKAGES)/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/reward-packages.txt
	cp $(PACKAGES_SITE)/clip/bpe_simple_vocab_16e6.txt.gz $(PACKAGES_SITE)/hpsv2/src/open_clip/
	touch $(PACKAGES)/ready
