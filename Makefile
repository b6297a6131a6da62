# Each line here is one a person could type. PYTHON: any Python from 3.11 on.
PYTHON ?= python3
VENV   := .venv
PIP    := $(VENV)/bin/pip --disable-pip-version-check
SOURCE := $(shell find pyproject.toml README.md src agents spawn bounce master.cf.d man -type f ! -name '*.pyc')

.PHONY: demo test check bench clean

demo: $(VENV)/installed      ## real mail through a private Postfix, case by case
	@tools/root demo
	@tools/debian postfix nsd
	@$(VENV)/bin/postroom demo $(DEMO)

test: $(VENV)/installed      ## every test, those against real Postfix included
	@tools/root test
	@tools/debian postfix postfix-lmdb postfix-pcre postfix-sqlite nsd postfwd
	@$(VENV)/bin/pytest -q $(TEST)

check: $(VENV)/installed     ## silent when all is well
	@tools/debian mandoc groff-base
	@tools/check $(VENV)/bin

bench: $(VENV)/installed     ## what is measured, and against what: benchmarks/README.md; half an hour or more
	@$(PIP) install -q "$$(ls build/wheels/postroom-*.whl)[bench]"
	@tools/debian postfix nsd postfwd
	@status=0; for file in benchmarks/*.py; do echo "$$file"; $(VENV)/bin/python $$file || status=1; done; exit $$status

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The package is installed as a user would have it, from a wheel; build/wheels keeps its dependencies, too, so that
# the demo can install it a second time in a place that an unprivileged user can enter.
$(VENV)/installed: $(SOURCE)
	@tools/venv $(PYTHON) $(VENV)
	@rm -f build/wheels/postroom-*.whl
	@$(PIP) wheel -q -w build/wheels '.[test]'
	@$(PIP) install -q --no-index --find-links build/wheels 'postroom[test]'
	@$(PIP) install -q --no-index --force-reinstall --no-deps build/wheels/postroom-*.whl
	@touch $@
