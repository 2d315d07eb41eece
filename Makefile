# The commands of the README; each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ZOO := .venv-zoo
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo atlas-demo test test-commands fuzz test-gpu test-web test-zoo test-peers test-examples zoo-table check format docs bench clean

demo: $(VENV)/.core
	$(BIN)/phosphene demo

# The atlas of docs/atlas.md: 24 classes, two layers, packaged photographs; less than ten minutes on two cores.
atlas-demo: $(VENV)/.core
	$(BIN)/python docs/make_atlas.py --out atlas-demo

# (Three workers for two cores: a worker waits for the commands, kernels and browsers that it starts. Their OpenMP threads,
# where they spin while they wait, take each other's cores: the notebooks five times as long. And hundreds of commands are
# started: each would compile the sources again where Python is told to write no bytecode.)
test: $(VENV)/.test
	PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=3000 $(BIN)/python -m pytest -n 3 --dist worksteal

# Random networks against plain float64 autograd, FUZZ of them; the seed is printed. `make test` looks at 200.
FUZZ ?= 2000
fuzz: $(VENV)/.test
	PHOSPHENE_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/fuzz

# Every line of README and docs that calls the command, on a fresh installation; minutes, and a network.
test-commands: $(VENV)/.test
	$(BIN)/python -m pytest -m slow tests/docs

# What `make test` runs on a pretend device, on the GPU of this machine; skipped where there is none. PyTorch's wheel for
# the CPU sees no GPU: install another one into the environment first.
test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest --on gpu -rs tests/contract/test_devices.py tests/contract/test_device_recipes.py tests/contract/test_device_tasks.py tests/runtime/test_precision.py

# The page, served and in a browser (chromium or chrome has to be there): an environment of its own, as Gradio wants an
# older Pillow than all the rest.
test-web: .venv-web/.made
	.venv-web/bin/python -m pytest tests/web tests/atlases

.venv-web/.made: pyproject.toml constraints-web.txt
	$(PYTHON) -m venv .venv-web
	.venv-web/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-web.txt --editable '.[web]' pytest hypothesis playwright
	touch $@

# Networks of torchvision, timm and transformers with random weights, ONNX (which onnx and onnxscript write), TensorFlow
# Lite and Keras files; an environment of its own, about 5 GB (grad-cam and Quantus without their own build of OpenCV).
test-zoo: $(ZOO)/.made
	$(ZOO)/bin/python -m pytest -n 2 --dist worksteal tests/zoo

# Every comparison of docs/peers.md, beside the libraries that it names.
test-peers: $(ZOO)/.made
	$(ZOO)/bin/python -m pytest -rs $(shell grep -o 'tests/[a-z_/]*[.]py::[a-z_]*' docs/peers.md | sort -u)

# The examples beside other tools, with those tools; an environment of its own, as only these pages need them.
test-examples: .venv-examples/.made
	.venv-examples/bin/python -m pytest -rs tests/test_readme.py tests/docs/test_notebooks.py tests/docs/test_check_evidence.py

.venv-examples/.made: pyproject.toml constraints.txt constraints-examples.txt
	$(PYTHON) -m venv .venv-examples
	.venv-examples/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint constraints-examples.txt --editable '.[test,examples]'
	touch $@

# What works on which of them, measured anew for docs/zoo.md.
zoo-table: $(ZOO)/.made
	$(ZOO)/bin/python -m tests.zoo.table

check: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 src docs

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site in site/, opened from disk; every dead link is an error. Its environment needs the network once, the build none.
docs: .venv-docs/.made
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/.made: pyproject.toml constraints.txt constraints-docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint constraints-docs.txt --editable '.[docs]'
	touch $@

# Another environment: two of the peers need torchvision, whose wheel loads only beside the CUDA build of torch.
bench: .venv-bench/.made
	.venv-bench/bin/python -m benchmarks --save

.venv-bench/.made: pyproject.toml benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt --editable .
	touch $@

clean:
	rm -rf $(VENV) .venv-bench .venv-docs .venv-examples .venv-web $(ZOO) site build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("phosphene needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable .
	touch $@

# (Not compiled: half of the installation's time, and most of it is never imported; what is, the first test compiles.)
$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP_INSTALL) --no-compile --editable '.[test]'
	touch $@ $(VENV)/.core

$(VENV)/.check: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP_INSTALL) --no-compile --editable '.[check]'
	touch $@ $(VENV)/.core $(VENV)/.test

$(ZOO)/.made: pyproject.toml constraints.txt constraints-zoo.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint constraints-zoo.txt --editable '.[test,timm,torchvision,hf,onnx,tflite,keras]' onnx onnxscript pandas saliency zennit
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps grad-cam==1.5.7 opencv-python-headless==5.0.0.93 quantus==0.6.0 ttach==0.0.3
	touch $@
