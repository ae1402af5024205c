# `make demo` and `make test` do everything on a fresh machine; both begin with `make setup`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TYPES := build/types

# Read before the processes start, so they can be set only here: OpenMP threads that wait must not spin
# (a second busy process would slow the first several times over).
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: setup demo test lint format clean

setup: $(READY)

$(READY): setup.py requirements/no_deps.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "mocodet needs Python >= 3.10, found " + sys.version.split()[0] + "; try: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'setuptools>=68' wheel
	$(BIN)/python -m pip install --quiet -e '.[dev,cityscapes,jpeg]'
	$(BIN)/python -c 'import detectron2, lvis' 2>/dev/null || $(BIN)/python -m pip install --quiet \
	    --no-deps --only-binary=:all: --python-version 3.10 --require-hashes -r requirements/no_deps.txt \
	    --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(BIN)/python -c 'import mocodet.pretrain, mocodet.detection, mocodet.configs'
	touch $(READY)

demo: setup
	$(BIN)/python tools/demo.py

# The type checker looks for `mocodet` by its folders; this one has them under the names that setup.py maps them to.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(TYPES)/mocodet
	ln -sfn $(addprefix $(CURDIR)/,common pretrain detection configs) $(wildcard $(CURDIR)/common/package/*) $(TYPES)/mocodet
	MYPYPATH=$(TYPES) $(BIN)/mypy --cache-dir $(TYPES)/cache -p mocodet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two processes with one thread each; where a test starts two more, the machine is briefly shared.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf build dist *.egg-info
