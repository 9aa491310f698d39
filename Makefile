# make demo   makes .venv, converts a bundled recording into a starter voice, says where the result is
# make test   the checks and all tests
# make docs   the documentation as a site, build/site/index.html
PYTHON ?= python3
VENV ?= .venv
CLIP := src/menura/assets/demo/librivox_0870.flac

.PHONY: help venv demo check test docs clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(firstword $(MAKEFILE_LIST))

# The stamp is written last, so that an interrupted installation is taken up again.
$(VENV)/.installed: pyproject.toml constraints.txt scripts/venv $(wildcard src/menura/kernels/cpp/*)
	PYTHON=$(PYTHON) scripts/venv $(VENV)

venv: $(VENV)/.installed

demo: venv
	$(VENV)/bin/menura convert $(CLIP) -o demo/ --timings
	@echo "Play demo/, then try your own: $(VENV)/bin/menura convert RECORDING -o OUT.wav"
	@echo "Or in the browser:             $(VENV)/bin/menura serve --open"

check: venv
	VENV=$(VENV) scripts/check

test: check
	VENV=$(VENV) scripts/test

docs: venv
	$(VENV)/bin/python scripts/site.py

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
