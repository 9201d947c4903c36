# onedial: `make train` trains a real language model on this machine, `make test` runs the tests, `make help` lists all.
# Needs Python >= 3.11 with the venv module, and make. Everything lands in .venv; pip keeps the user's own settings.
# Any target may be interrupted and run again: a stamp is written only after its step is complete.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
TRAIN_ARGS ?= --config examples/arithmetic.toml
# Some tests wait for processes: one worker more than cores, at most 4.
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores < 4 ? cores + 1 : 4)))

# verl asks for an older transformers than the one under test, so only its loss module's own imports are installed.
PEERS := verl tensordict pyvers importlib_metadata zipp orjson codetiming omegaconf

.DEFAULT_GOAL := help

# One real training run, runs killed at random, the identities on the real model, the default model from its package.
SMOKE := "tests/test_kill.py::test_make_train_teaches_the_default_model[0]" \
	"tests/test_kill.py::test_killed_at_random_moments_ends_as_if_never_killed" \
	tests/test_identities.py::test_identity_on_a_real_language_model \
	tests/test_models.py::test_smollm2_from_its_wheel_answers

.PHONY: help train test check smoke slow docs mutants format constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(VENV)/.installed ## fetch SmolLM2-135M, train it on arithmetic, evaluate before and after
	@$(VENV)/bin/onedial train $(TRAIN_ARGS)

test: $(VENV)/.tested ## the default test suite (minutes, no network, no accelerator)
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.tested ## style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

smoke: $(VENV)/.tested ## a few of the slow tests, minutes: one real training run, kills, the real model
	@$(PY) -m pytest -m "slow and not gpu" $(SMOKE) $(PYTEST_ARGS)

slow: $(VENV)/.tested ## all that `make test` leaves out, hours: every row, hostile files, coverage of intervals
	@$(PY) -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

docs: $(VENV)/.documented ## the reference pages from the code, then the site, in site/ (offline, warnings are errors)
	@$(PY) tools/reference.py
	@$(PY) tools/diagram.py
	@$(PY) tools/outputs.py
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@! grep -rlE 'src="https?://|href="https?://[^"]*[.](css|js|woff2?)"' site --include='*.html'  # nothing is fetched

mutants: $(VENV)/.tested ## change the source at 200 random places and count what the tests notice (an hour or more)
	@$(PIP) install -qq -c constraints.txt -e '.[mutants]'
	@$(PY) tools/mutants.py $(MUTANTS_ARGS)

format: $(VENV)/.tested ## rewrite the sources in the project's style
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

constraints: $(VENV)/.tested ## rewrite constraints.txt from what .venv holds
	@{ grep '^#' constraints.txt; $(PIP) freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9.]*$$//'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean: ## remove .venv, site/ and caches (never runs/)
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache

# The environment itself: a half-made one (no stamp) is made anew.
$(VENV)/.made:
	@python=""; \
	for name in python3 python3.13 python3.12 python3.11 python; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "onedial needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || echo none). Install one and run make again." >&2; exit 1; \
	fi; \
	if ! $$python -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$python has no venv module; install it (on Debian and Ubuntu: apt install python3-venv) and run make again." >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	rm -rf $(VENV) && $$python -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing onedial into $(VENV) (a few minutes the first time)"
	@$(PIP) install -qq -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@echo "installing the test tools into $(VENV)"
	@$(PIP) install -qq -c constraints.txt -e '.[test]'
	@$(PIP) install -qq -c constraints.txt --no-deps $(PEERS)
	@touch $@

$(VENV)/.documented: $(VENV)/.tested
	@echo "installing the documentation tools into $(VENV)"
	@$(PIP) install -qq -c constraints.txt -e '.[docs]'
	@touch $@
