# vethd. Every target does the set-up that it needs; `make help` lists them.
PYTHON ?= python3
# The versions and hashes of all Python packages; LOCK= takes the newest instead (docs/dependencies.md).
LOCK ?= requirements.lock
VENV := PYTHON='$(PYTHON)' LOCK='$(LOCK)' tools/venv
BIN := .venv/bin
READY := .venv/.ready
BUILT := .venv/.built
NATIVE := setup.py $(wildcard vethd/datapath/*.p[xy][xdi])
SOAK_S ?= 3600
PAIRS ?= 2000
FUZZ_S ?= 60
FUZZERS ?= config requests rtnetlink record frames
KERNELS ?= bullseye bookworm trixie sid

NEWEST := build/newest
# The kernel of the tests' virtual machines. `make test-kernels` unpacks those of other suites of Debian once; remove
# build/unpacked to have newer ones.
IMAGE := linux-image-cloud-amd64
# Tests that need big packages (podman, QEMU, ...) or minutes run in CI and in `make test-all`.
ifeq ($(CI),true)
SUITE := --durations=30
SETS := test heavy
else
SUITE := -m 'not heavy'
SETS := test
endif

# Where `make install` puts things. DESTDIR goes in front of all, and no file names it.
prefix = /usr/local
bindir = $(prefix)/bin
venvdir = $(prefix)/lib/vethd
ipdir = $(venvdir)/ip
sysconfdir = /etc
unitdir = $(prefix)/lib/systemd/system
sysusersdir = $(prefix)/lib/sysusers.d
cnidir = /opt/cni/bin
datarootdir = $(prefix)/share
mandir = $(datarootdir)/man
docdir = $(datarootdir)/doc/vethd
bashcompletiondir = $(datarootdir)/bash-completion/completions
zshcompletiondir = $(datarootdir)/zsh/site-functions
fishcompletiondir = $(datarootdir)/fish/vendor_completions.d
DIRECTORIES := bindir venvdir ipdir sysconfdir unitdir sysusersdir cnidir mandir docdir \
  bashcompletiondir zshcompletiondir fishcompletiondir
# The service sees no interpreter in somebody's home, which python3 on PATH may be.
OUR_PYTHON := $(PYTHON)
ifeq ($(origin PYTHON),file)
OUR_PYTHON := $(or $(wildcard /usr/bin/python3),$(PYTHON))
endif
STAGE = build/stage
WHEELS := build/install$(subst /,-,$(OUR_PYTHON))
MANIFEST = $(venvdir)/manifest

.NOTPARALLEL:
.PHONY: help setup demo test test-all test-newest test-kernels lock lint unit bench bench-quick bench-page soak lifetimes fuzz
.PHONY: man clean
.PHONY: stage install uninstall deb
.PHONY: packages-demo packages-test packages-heavy packages-bench packages-python packages-deb

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: packages-demo $(BUILT) ## make .venv with vethd, vethctl and the development tools in it

$(READY): pyproject.toml $(LOCK) tools/venv
	@$(VENV) .venv build vethd dev
	@touch $@

$(BUILT): $(READY) $(NATIVE) tools/native
	@tools/native .venv
	@touch $@

demo: packages-demo $(BUILT) ## join two namespaces, send traffic across, and remove every trace
	@exec $(BIN)/python tools/demo.py $(DEMO)

test: $(SETS:%=packages-%) $(BUILT) lint ## run every check and test, as root (PYTEST='-k demo' narrows them)
	@exec tools/suite $(SUITE) $(PYTEST)

test-all: ## as test, with the tests that need big packages
	@$(MAKE) --no-print-directory CI=true test

test-newest: ## as test, with the newest release of every Python package, in a copy in build/newest
	@rm -rf $(NEWEST)
	@mkdir -p $(NEWEST)
	@tar -c --exclude=./.git --exclude=./.venv --exclude=./build --exclude='*.so' --exclude=_native.c . | tar -x -C $(NEWEST)
	@$(MAKE) --no-print-directory -C $(NEWEST) LOCK= test

test-kernels: packages-heavy $(BUILT) $(KERNELS:%=build/unpacked/%/$(IMAGE)) ## use vethd in virtual machines without veth, by the kernels of Debian's suites (KERNELS='trixie sid')
	@exec env VETHD_KERNELS='$(KERNELS)' $(BIN)/python -m pytest -rA tests/system/test_without_veth.py $(PYTEST)

lock: ## write requirements.lock anew, with the newest release of every Python package
	@$(VENV) .venv build lock
	@$(BIN)/python tools/lock.py write

unit: $(BUILT) ## run the tests that need neither root nor packages
	@exec $(BIN)/python -m pytest tests/unit $(PYTEST)

lint: $(READY) ## check style, format and types
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@tools/shlint

bench: packages-test packages-bench $(BUILT) ## measure beside veth and other programs, into build/bench.json (QUICK=1: short)
	@mkdir -p build
	@exec $(BIN)/python -m tests.benchmarks --json build/bench.json $(if $(QUICK),--quick) $(BENCH)

bench-quick: ## as bench, in two minutes
	@$(MAKE) --no-print-directory bench QUICK=1

bench-page: $(READY) ## write the tables and plots of docs/performance.md from build/bench.json
	@exec $(BIN)/python -m tests.benchmarks.report build/bench.json

soak: packages-test $(BUILT) ## live for SOAK_S=3600 s under the real systemd, upset and audited (SOAK_SEED=..., SOAK_ENGINE=...)
	@exec $(BIN)/python -m tests.soak --seconds $(SOAK_S) $(SOAK_SEED:%=--seed %) $(SOAK_ENGINE:%=--engine %)

lifetimes: packages-test $(BUILT) ## weigh a daemon over PAIRS=2000 pairs of each way of living and dying (SOAK_ENGINE=...)
	@exec $(BIN)/python -m tests.soak.lifetimes --pairs $(PAIRS) $(SOAK_ENGINE:%=--engine %)

fuzz: $(BUILT) ## let atheris look for input that breaks a parser, FUZZ_S=60 s on each (FUZZERS=frames: on that)
	@$(VENV) .venv fuzz
	@for target in $(FUZZERS); do $(BIN)/python -m tests.fuzz $$target $(FUZZ_S) || exit 1; done

man: $(READY) ## make the man pages in build/man, from the commands' help
	@exec $(BIN)/python tools/man.py build/man

$(WHEELS)/.built: pyproject.toml $(LOCK) setup.py MANIFEST.in tools/venv tools/wheels \
  $(shell find vethd -name '*.p[xy]*' ! -name '*.pyc') | packages-python
	@PYTHON='$(OUR_PYTHON)' LOCK='$(LOCK)' tools/wheels $(WHEELS)
	@touch $@

stage: $(WHEELS)/.built
	@rm -rf $(STAGE)
	@PYTHON='$(OUR_PYTHON)' $(foreach name,$(DIRECTORIES),$(name)='$($(name))') tools/stage $(STAGE) $(WHEELS)/packages

install: stage ## install vethd for good: prefix=/usr/local, DESTDIR= and the like as usual (docs/install.md)
	@DESTDIR='$(DESTDIR)' $(OUR_PYTHON) tools/installed.py install $(STAGE) $(MANIFEST)
	@echo 'installed$(if $(DESTDIR), below $(DESTDIR),; now: systemd-sysusers && systemctl daemon-reload && systemctl enable --now vethd)'

uninstall: ## remove what `make install` with the same prefix and DESTDIR put there
	@DESTDIR='$(DESTDIR)' $(OUR_PYTHON) tools/installed.py uninstall $(MANIFEST)

deb: packages-deb packages-python ## build a Debian package, build/vethd_*.deb
	@rm -f build/vethd_*.deb
	@debian/rules binary DEBS=build
	@debian/rules clean

clean: ## remove what the other targets made
	rm -rf .venv build dist *.egg-info vethd.datapath._native.c vethd/datapath/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

UNPACKED := $(addprefix build/unpacked/,$(IMAGE) docker.io aardvark-dns)
packages-heavy: $(UNPACKED)

$(UNPACKED):
	@tools/unpack $(@F)

build/unpacked/%/$(IMAGE):
	@tools/unpack $(IMAGE) $*

packages-demo packages-test packages-heavy packages-bench packages-python packages-deb: packages-%:
	@tools/packages $*
