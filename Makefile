# make demo: train, export, calibrate and compare a network on handwritten digits; again, it does only what has changed.
# make test: run the tests (eight minutes).  make test-fast: run those that train, export and measure little (90 s).
# make lint: check style, types and who imports whom.  make format: mend style.
# make test-rknn: run those that need Rockchip's toolkit, in an environment of its own (Python 3.10 to 3.12, 2 GB).
# make test-litert: run those that need onnx2tf, in an environment of its own (Python 3.12 or 3.13, 0.4 GB).
# make test-cpp [ONNXRUNTIME_ROOT=FOLDER]: build the C++ runtime and compare it with Python's (needs cmake, g++ and nlohmann/json).
# make test-arm: run on an emulated Arm processor what ships in a product, and compare its answers (Linux, 1.5 GB in .arm).
# make test-release [RELEASE='--python python3.12 -- base calibrate']: build the wheel, and use it with each extra alone (an hour, 5 GB).
# make fuzz: read damaged and forged files for ten minutes of each kind, in an environment of its own (Python 3.11 to 3.13 on Linux);
# goes on where it was stopped (FUZZ_SECONDS=3600 KINDS='manifest target').
# make strangers: take 271 plain networks of torchvision, timm and transformers through attach, export, fuse and quantize, in an
# environment of its own (2 GB); takes hours, goes on where it was stopped (DRIVE='--jobs 2 --steps attach,export timm').
# make docs: build the pages of docs/ into site/.
# make benchmarks [DATA=folder of CIFAR-10]: write docs/benchmarks.md; takes 75 minutes on two cores that do nothing else, goes on
# where it was stopped, and runs nothing again whose JSON lies in docs/benchmarks.
PYTHON ?= python3
VENV := .venv
RKNN_PYTHON ?= $(PYTHON)
RKNN ?= .rknn
LITERT_PYTHON ?= python3.12
LITERT ?= .litert
ARM ?= .arm
STRANGERS ?= .strangers
RELEASE ?=
FUZZ ?= .fuzz
FUZZ_SECONDS ?= 600
PACKAGES := '.[export,calibrate,compress,report,openvino,mnn,litert,ncnn,metrics,sign,serve,fleet]' mlxtend seglearn ruff mypy import-linter
PACKAGES += pytest pytest-xdist hypothesis schemathesis 'tritonclient[http]' av asyncssh pnnx
# TensorRT's builder without a GPU, for its tests; NVIDIA's index may have it for other Pythons too.
PACKAGES += 'tensorrt-rtx; python_version == "3.11" and sys_platform == "linux" and platform_machine == "x86_64"'

INSTALL = $(PYTHON) samples/installing.py $(VENV)/bin/pip install

DOCS := mkdocs-material 'mkdocstrings[python]'

.PHONY: demo test test-fast test-rknn test-litert test-cpp test-arm test-release fuzz strangers benchmarks lint format docs clean

demo: $(VENV)/.installed
	$(VENV)/bin/python samples/quickstart/quickstart.py

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20

test-fast: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	-m "not long and not slow and not hardware and not large and not rknn and not litert and not cpp"

test-rknn: $(VENV)/.installed $(RKNN)/.installed
	OFFRAMP_RKNN_PYTHON=$(abspath $(RKNN))/bin/python $(VENV)/bin/python -m pytest -m rknn

test-litert: $(VENV)/.installed $(LITERT)/.installed
	OFFRAMP_LITERT_PYTHON=$(abspath $(LITERT))/bin/python $(VENV)/bin/python -m pytest -m litert

test-cpp: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m cpp tests/cpp

test-arm: $(VENV)/.installed
	PYTHONUNBUFFERED=1 $(VENV)/bin/python tests/arm/run.py --folder $(ARM)

test-release: $(VENV)/.installed $(LITERT)/.installed
	OFFRAMP_LITERT_PYTHON=$(abspath $(LITERT))/bin/python $(VENV)/bin/python tests/release/run.py $(RELEASE)

fuzz: $(FUZZ)/env/.installed
	$(FUZZ)/env/bin/python tests/fuzzing/long.py --keep $(FUZZ) --seconds $(FUZZ_SECONDS) $(KINDS)

strangers: $(STRANGERS)/.installed
	$(STRANGERS)/bin/python tests/strangers/drive.py --out $(STRANGERS)/found.jsonl $(DRIVE)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/offramp
	$(VENV)/bin/mypy
	PYTHONPATH=$(VENV)/types $(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

benchmarks: $(VENV)/.installed
	-$(VENV)/bin/pip install -q --no-deps earlyon==0.3.0 mapie==1.6.0
	-test -d build/segmentation/network.offramp || $(VENV)/bin/python samples/segmentation/segmentation.py
	$(VENV)/bin/python tests/benchmarks/run_all.py $(if $(DATA),--data '$(DATA)'); \
	failed=$$?; $(VENV)/bin/python tests/benchmarks/page.py && exit $$failed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV); this takes a few minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -q -c constraints.txt setuptools
	@$(INSTALL) -c constraints.txt --no-build-isolation -e $(PACKAGES)
	@$(INSTALL) -c constraints.txt --no-build-isolation -e '.[qnn]' || echo "no onnxruntime-qnn for this system: its tests are skipped"
	@touch $@

$(RKNN)/.installed: runtime/engines/rknn/requirements.txt
	$(RKNN_PYTHON) -m venv $(RKNN)
	PIP_EXTRA_INDEX_URL="$$PIP_EXTRA_INDEX_URL https://download.pytorch.org/whl/cpu" $(RKNN)/bin/pip install -q -r runtime/engines/rknn/requirements.txt
	$(RKNN)/bin/pip install -q --no-deps rknn-toolkit2==2.5.0
	@touch $@

$(LITERT)/.installed: runtime/engines/litert/requirements.txt
	$(LITERT_PYTHON) -m venv $(LITERT)
	$(LITERT)/bin/pip install -q --no-deps -r runtime/engines/litert/requirements.txt
	@touch $@

$(STRANGERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(STRANGERS)
	$(STRANGERS)/bin/pip install -q -c constraints.txt setuptools
	$(STRANGERS)/bin/pip install -q -c constraints.txt --no-build-isolation -e '.[export,calibrate,compress]' torchvision timm transformers
	@touch $@

$(FUZZ)/env/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(FUZZ)/env
	$(FUZZ)/env/bin/pip install -q -c constraints.txt setuptools
	$(FUZZ)/env/bin/pip install -q -c constraints.txt --no-build-isolation -e '.[calibrate]' pytest hypothesis atheris
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/pip install -q -c constraints.txt $(DOCS)
	@touch $@

clean:
	rm -rf $(VENV) $(RKNN) $(LITERT) $(ARM) $(STRANGERS) $(FUZZ) .release build site *.egg-info
