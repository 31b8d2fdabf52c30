# make hello        install into .venv, then a voice that comes along says a sentence into hello.wav
# make quickstart   install into .venv, then the mini recipe from text and audio to speech and scores
# make quickstart-gpst   the same for GPST: semantic units and codes in one transformer, and every mode of it
# make test         install into .venv, then the tests          make check   lint (formatting, types, docstrings, shell), quick tests
# make test-slow    the tests that repeat at length what others do shortly
# make test-faults  power that fails, disks that fill, damaged and hostile files, at length; writes the figures of docs/reliability.md
# make test-readme  all that the README shows, in a fresh clone with a fresh environment: about 40 minutes
# make install-demo what the demo needs beyond that: gradio
# make install-lyra the runtime of codec lyra                     make install-asr   an open-vocabulary recogniser, faster_whisper
# make test-browser the report and the demo in a real Chromium, which must be there (apt-get install chromium ffmpeg)
# make bench        the decoding speed that the quick start measured            make bench-tokens   speed and memory of tokenization
# make bench-local-drop   what a training step of GPST costs with local-drop      make bench-frechet   how many frames a distance needs
# make smoke        whether an environment works: tiny recipe, task, archives; PYTHON=python3.13 VENV=.venv-3.13 make smoke for another
# make add PACKAGES="espnet_ext[demo] another"   further packages, without tearing up what the lock installed (docs/install.md)
# make locks        requirements/lock-py3*.txt and constraints-py3*.txt anew, of setup.py and requirements/*.in; LOCK_ARGS="--upgrade-package espnet"
# make bench-speed  decoding beside the peers that are installed; SPEED_ON=cpu, wall or cuda
#
# Every target works alone and again: what is installed or finished stays. Variables:
#   PYTHON=python3.12       the interpreter that makes .venv: Python 3.11, 3.12 or 3.13, the first that is there if nothing is said
#   VENV=.venv-3.12         another environment than .venv, for example of another Python
#   TORCH_INDEX_URL=...     package index for torch alone, for example PyTorch's CPU wheel index (PyPI's Linux build is the CUDA one)
#   PACKAGES="..."          what make add installs, as one names it to pip; ADD_ARGS=--dry-run shows it only
#   MINI=tiny               either quickstart on a handful of sentences
#   RECIPE_ARGS="..."       further options of the recipe's run.sh
#   TEST_PROCESSES=2        processes of the tests; "auto", one per core up to four, if nothing is said

PYTHON ?=
VENV ?= .venv
LOCK_ARGS ?=
PACKAGES ?=
ADD_ARGS ?=
TORCH_INDEX_URL ?=
MINI ?=
RECIPE_ARGS ?=
TEST_PROCESSES ?= auto

BIN := $(VENV)/bin
# a process has one thread: with more, those of different processes wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 4 --dist loadscope --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check install
RECIPE := egs2/mini_libritts/codec_lm1
GPST_RECIPE := egs2/mini_libritts/gpst1
SHELL_FILES := local/*.sh egs2/*/*/run.sh egs2/*/*/local/*.sh benchmarks/*.sh benchmarks/peers/*.sh .ci/run
PYTHON_FILES := espnet_ext tests local egs2 egs3 benchmarks setup.py

.DEFAULT_GOAL := help
.PHONY: help install hello install-demo install-lyra install-asr quickstart quickstart-gpst test test-slow test-faults test-readme test-browser lint check bench bench-tokens bench-local-drop bench-frechet bench-speed clean smoke locks add
.DELETE_ON_ERROR:

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

install: $(VENV)/.installed

$(VENV)/.installed: $(wildcard requirements/lock-py3*.txt) setup.py
	bash local/install.sh "$(VENV)" "$(PYTHON)" "$(TORCH_INDEX_URL)"
	@touch $@

$(VENV)/.installed-test: requirements/lock-test.txt $(VENV)/.installed
	$(PIP) --no-deps --no-build-isolation --use-pep517 -r requirements/lock-test.txt
	@touch $@

$(VENV)/.installed-dev: requirements/lock-dev.txt $(VENV)/.installed-test
	$(PIP) --no-deps -r requirements/lock-dev.txt
	@touch $@

install-demo: $(VENV)/.installed-demo

$(VENV)/.installed-demo: requirements/lock-demo.txt $(VENV)/.installed
	$(PIP) --no-deps -r requirements/lock-demo.txt
	@touch $@

install-lyra: $(VENV)/.installed-lyra

install-asr: $(VENV)/.installed-asr

$(VENV)/.installed-lyra $(VENV)/.installed-asr: $(VENV)/.installed-%: requirements/lock-%.txt $(VENV)/.installed
	$(PIP) --no-deps -r requirements/lock-$*.txt
	@touch $@

$(VENV)/.installed-browser: requirements/lock-browser.txt $(VENV)/.installed-test $(VENV)/.installed-demo
	$(PIP) --no-deps -r requirements/lock-browser.txt
	@touch $@

hello: $(VENV)/.installed
	$(BIN)/espnet-ext say "seven small birds waited near that river" -o hello.wav

quickstart: $(VENV)/.installed
	bash $(RECIPE)/run.sh --python $(BIN)/python $(if $(MINI),--size $(MINI)) $(RECIPE_ARGS)

quickstart-gpst: $(VENV)/.installed
	bash $(GPST_RECIPE)/run.sh --python $(BIN)/python $(if $(MINI),--size $(MINI)) $(RECIPE_ARGS)

test: $(VENV)/.installed-test
	$(PYTEST) -m "not gpu and not browser and not slow and not readme and not faults"

smoke: $(VENV)/.installed-test
	$(PYTEST) -q -m "not slow" tests/test_requirements.py tests/test_ark.py tests/test_task.py \
	  tests/test_recipes.py::test_tiny_recipe_speaks_every_test_sentence

UV := $(BIN)/uv
$(UV): $(VENV)/.installed
	$(PIP) uv==0.13.9
	@touch $@

add: $(UV)
	bash local/add_packages.sh "$(VENV)" $(ADD_ARGS) $(PACKAGES)

locks: $(UV)
	bash local/make_locks.sh $(UV) $(LOCK_ARGS)

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m "slow and not gpu"

test-faults: $(VENV)/.installed-test
	rm -f .faults.jsonl
	FAULT_FIGURES=$(CURDIR)/.faults.jsonl $(PYTEST) --maxfail 1 tests/faults
	$(BIN)/python tests/faults/figures.py .faults.jsonl docs/reliability.md
	@rm -f .faults.jsonl

test-readme: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m readme tests/test_readme_blocks.py

test-browser: $(VENV)/.installed-browser
	$(BIN)/python -m pytest -m browser

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/python -m mypy
	$(BIN)/pydoclint --quiet espnet_ext local
	$(BIN)/shellcheck -x $(wildcard $(SHELL_FILES))

check: lint $(VENV)/.installed-dev
	$(PYTEST) -q -m "not gpu and not recipe and not espnet and not browser and not slow and not readme and not faults"

# the decoding speed that the quick start measured
SPEED := import glob, json, sys; \
  found = {name: json.load(open(name)) for name in sorted(glob.glob("$(RECIPE)/exp*/codec_lm_*/decode_*/*/timing.json"))}; \
  found or sys.exit("no timing.json yet: run make quickstart first; its stage inference measures the decoding speed"); \
  [print("RTF %.3f  %7.1f frames/s  %5.2f local passes/frame  %s" % (t["rtf"], t["frames"] / t["seconds_lm"], \
    t.get("local_passes_per_frame", float("nan")), name)) for name, t in found.items()]

bench: $(VENV)/.installed
	@$(BIN)/python -c '$(SPEED)'

bench-tokens: $(VENV)/.installed-test
	$(BIN)/python benchmarks/tokenization.py --out benchmarks/results/tokenization_cpu

bench-local-drop: $(VENV)/.installed-test
	$(BIN)/python benchmarks/local_drop.py --out benchmarks/results/local_drop_cpu

bench-speed: $(VENV)/.installed-test
	PYTHON=$(BIN)/python bash benchmarks/speed.sh $(or $(SPEED_ON),cpu)

bench-frechet: $(VENV)/.installed-test
	$(BIN)/python benchmarks/frechet_sample_size.py --out benchmarks/results/frechet_sample_size

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
	rm -rf egs2/*/*/data egs2/*/*/dump egs2/*/*/exp
	rm -rf egs2/*/*/data_tiny egs2/*/*/dump_tiny egs2/*/*/exp_tiny
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
