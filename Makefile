# make demo   the whole way on a small data set of its own: train, prune, fine-tune, evaluate, export
# make test   style, types, floors, tests
# make docs   the documentation as a site, in site/
# Each sets up .venv by itself. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check

.PHONY: demo test lint format docs
.DELETE_ON_ERROR:

demo: $(VENV)/user.installed
	$(BIN)/python -m utils.commands.demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/dev.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/dev.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/dev.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The stamps are newer than the files that they were installed from; the developer's list holds the user's.
$(VENV)/user.installed: requirements.txt | $(VENV)/made
	@echo "Installing requirements.txt into $(VENV), a few minutes the first time ..."
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/dev.installed: requirements.txt requirements-dev.txt | $(VENV)/made
	@echo "Installing requirements-dev.txt into $(VENV), a few minutes the first time ..."
	@$(PIP) -r requirements-dev.txt
	@touch $(VENV)/user.installed $@

$(VENV)/made:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "$(PYTHON) is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make $(VENV); on Debian and Ubuntu first: apt install python3-venv" >&2; exit 1; }
	@touch $@
