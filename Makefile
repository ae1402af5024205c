# `make demo` and `make test` work on a fresh machine, because both first run `make setup`, which installs the versions
# in requirements/lock.txt. With NEWEST=1, each target installs the newest versions in build/newest instead.
PYTHON ?= python3
NEWEST ?=
VENV ?= $(if $(NEWEST),build/newest,.venv)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := dev,cityscapes,jpeg,docs
LOCKS := requirements/build.txt requirements/lock.txt
TYPES := build/types
COMMA := ,

# Keeps waiting OpenMP threads from spinning in pytest and the tools; common/commands/main.py does so for all commands.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: setup lock demo test lint types docs format clean

setup: $(READY)

$(READY): setup.py requirements/no_deps.txt $(if $(NEWEST),,$(LOCKS))
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mocodet requires Python >= 3.11, found " + sys.version.split()[0] + "; try: make setup PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef NEWEST
	$(BIN)/python -m pip install --quiet --upgrade setuptools wheel
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --no-build-isolation -e '.[$(EXTRAS)]'
else
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/build.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
endif
	$(BIN)/python -c 'import detectron2, lvis' 2>/dev/null || $(BIN)/python -m pip install --quiet \
	    --no-deps --only-binary=:all: --python-version 3.10 --require-hashes -r requirements/no_deps.txt \
	    --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(BIN)/python -c 'import mocodet.pretrain, mocodet.detection, mocodet.configs'
	touch $(READY)

# Regenerates the lock files, for every Python version and system, with the newest versions that requirements/held.txt
# allows. With UPGRADE= only the packages that changed in setup.py are updated. build.txt lists the build requirements
# of packages that are not available as wheels.
UPGRADE ?= --upgrade
LOCK := build/lock/bin/uv --no-python-downloads --quiet pip compile --universal --python-version 3.11 \
    --generate-hashes $(UPGRADE) --custom-compile-command 'make lock'

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade uv
	$(LOCK) $(addprefix --extra ,$(subst $(COMMA), ,$(EXTRAS))) --constraints requirements/held.txt \
	    --output-file requirements/lock.txt setup.py
	printf 'setuptools\nwheel\n' | $(LOCK) --constraints requirements/lock.txt --output-file requirements/build.txt -

demo: setup
	$(BIN)/python tools/demo.py

# Links the folders under the names that setup.py maps them to, for tools that read the source of `mocodet`.
types:
	mkdir -p $(TYPES)/mocodet
	ln -sfn $(addprefix $(CURDIR)/,common pretrain detection configs) $(wildcard $(CURDIR)/common/package/*) $(TYPES)/mocodet

lint: setup types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(TYPES) $(BIN)/mypy --cache-dir $(TYPES)/cache -p mocodet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds the documentation site in build/site. The variable suppresses an advertisement.
docs: setup types
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Uses two processes with one thread each. A test that starts two more processes briefly shares the machine with them.
test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf build dist *.egg-info
