# `make demo` and `make test` do everything on a fresh machine; both begin with `make setup`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Read before the processes start, so they can be set only here. OpenMP threads that wait must not spin
# (a second busy process would slow the first several times over), and glibc must not hand memory back
# to the kernel after every step (half of the time of a CPU training loop went there).
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 1073741824

.PHONY: setup demo test lint format clean

setup: $(READY)

$(READY): setup.py requirements/no_deps.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mocodet needs Python >= 3.10, found " + sys.version.split()[0] + "; try: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'setuptools>=68' wheel
	$(BIN)/python -m pip install --quiet -e '.[dev,opencv,cityscapes,data]'
	$(BIN)/python -c 'import detectron2, lvis' 2>/dev/null || $(BIN)/python -m pip install --quiet \
	    --no-deps --only-binary=:all: --python-version 3.10 --require-hashes -r requirements/no_deps.txt \
	    --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(BIN)/python -c 'import mocodet.pretrain, mocodet.detection, mocodet.configs'
	touch $(READY)

demo: setup
	$(BIN)/python tools/demo.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf build dist *.egg-info
