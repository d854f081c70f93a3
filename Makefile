# Every target does its own set-up; `make serve` and `make test` work on a fresh clone.
PYTHON ?= $(shell .ci/python)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install serve test test-browser lint bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pacsnode wants Python 3.11 or newer")'
	@# Debian keeps venv's pip in a package of its own
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

serve: install
	$(BIN)/pacsnode serve --config conf/pacsnode.toml

# The peers are other people's DICOM programs; tests that find none skip. Most of the time is spent waiting for
# processes to start, so files are run side by side.
test: install
	@.ci/install-peers
	$(BIN)/python -m pytest -q -n 3 --dist loadfile $(ARGS)

# OHIF and the libraries of viewers in Chromium; fetches some 80 MB from npm into ~/.cache/pacsnode-browser, once.
test-browser: install
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium nodejs npm; } || true
	PACSNODE_TEST_BROWSER=1 $(BIN)/python -m pytest -q tests/web/browser $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	@.ci/install-peers orthanc-dicomweb
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
