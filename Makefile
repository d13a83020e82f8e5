# Everything a fresh machine needs comes from here: `make labs` and `make test` each start from nothing.
SHELL   := /bin/bash
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo -E)
VENV    := .venv
BIN     := $(VENV)/bin
OBJECT  := egresslab/datapath/bpf/egresslab.o
PLUGIN  := egresslab/agent/cni/egresslab-x86_64
PACKAGES := environments/netns/debian-packages.txt

.DEFAULT_GOAL := help
.PHONY: help setup system labs lab up down test test-vm test-kind lint format bench wheel clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

setup: system $(VENV)/.ready $(OBJECT) $(PLUGIN) $(VENV)/libexec/nginx  ## install what is missing: system packages, virtual environment, eBPF object

system:
	@missing=$$(comm -23 <(sort $(PACKAGES)) <(dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' 2>/dev/null | sed -n 's/^ii *//p' | sort -u)); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

$(VENV)/.ready: pyproject.toml requirements.lock | system
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@echo "installing Python packages into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock pip hatchling editables
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --no-build-isolation --editable '.[lab,dev]'
	@$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" >/dev/null 2>&1
	@touch $@

$(OBJECT): $(wildcard egresslab/datapath/bpf/*.[ch]) egresslab/datapath/bpf/Makefile | system
	@$(MAKE) --no-print-directory --silent -C egresslab/datapath/bpf

$(PLUGIN): $(wildcard egresslab/agent/cni/*.c) egresslab/agent/cni/Makefile | system
	@$(MAKE) --no-print-directory --silent -C egresslab/agent/cni

# Unpacked, not installed: the package would start a web server on this machine.
$(VENV)/libexec/nginx: | system $(VENV)/.ready
	@d=$$(mktemp -d) && cd $$d && (apt-get download -qq nginx || { $(SUDO) apt-get update -qq && apt-get download -qq nginx; }) 2>/dev/null && \
	  dpkg-deb -x nginx_*.deb . && install -D usr/sbin/nginx $(abspath $@); s=$$?; rm -rf $$d; exit $$s

labs: setup  ## run every chapter on a fresh cluster: table, notebooks, HTML report and JUnit XML in build/labs
	@$(SUDO) $(BIN)/egresslab labs run

lab: setup  ## bring the cluster up and open JupyterLab on the chapters
	@$(SUDO) $(BIN)/egresslab up
	@$(BIN)/egresslab labs open

up: setup  ## bring the cluster up
	@$(SUDO) $(BIN)/egresslab up

down:  ## take the cluster down; nothing is left behind
	@$(SUDO) $(BIN)/egresslab down

test: setup lint  ## lint, types and every test
	@$(SUDO) $(BIN)/pytest --numprocesses 2

test-vm: setup  ## boot nodes as virtual machines, and try labs, faults, chapters and the datapath on them
	@$(MAKE) --no-print-directory system PACKAGES=environments/vm/debian-packages.txt
	@$(SUDO) $(BIN)/pytest -m vm tests/vm --timeout 3600

test-kind: setup  ## a lab on Kind, its chapters and its end; skipped with the reason where Docker, kind or images are missing
	@$(BIN)/pytest -m kind tests/kind --timeout 3600

lint: $(VENV)/.ready
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 3
	@$(BIN)/nbstripout --keep-id --verify labs/*.ipynb

format: $(VENV)/.ready  ## format code and strip notebooks
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format . ; $(BIN)/nbstripout --keep-id labs/*.ipynb

bench: setup  ## run every benchmark small; JSON and a page with plots in build/bench
	@$(SUDO) $(BIN)/python benchmarks/_all.py

lock: $(VENV)/.ready  ## refresh requirements.lock from the newest versions that pyproject.toml allows
	@$(BIN)/pip install --quiet --upgrade --no-build-isolation --editable ".[lab,dev]" build
	@$(BIN)/pip freeze --exclude-editable | grep -v "@" > requirements.lock

wheel: setup  ## build the wheel, with the compiled eBPF object inside
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

# Debian's Python; wheels of other architectures are unpacked, never run.
IMAGE_PYTHON := 3.11
IMAGE_ARCHES ?= amd64
IMAGE        ?= egresslab:0.1.0
DOCKER       ?= docker
MACHINE_amd64 := x86_64
MACHINE_arm64 := aarch64

image-files: wheel  ## put together what the image is made of, in build/image (IMAGE_ARCHES="amd64 arm64")
	@for arch in $(IMAGE_ARCHES); do $(MAKE) --no-print-directory build/image/$$arch || exit 1; done

build/image/%: FORCE
	@rm -rf $@ && mkdir -p $@
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --target $@ --only-binary=:all: --python-version $(IMAGE_PYTHON) \
	  $(foreach tag,2_17 2_28 2_34,--platform manylinux_$(tag)_$(MACHINE_$*)) --platform manylinux2014_$(MACHINE_$*) \
	  --constraint requirements.lock --requirement deploy/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --upgrade --target $@ $$(ls -t dist/egresslab-*.whl | head -n 1)
	@rm -rf $@/bin $@/egresslab/chapters $@/kubernetes/test $@/kubernetes/e2e_test

image: image-files  ## build the container image for this machine (DOCKER=docker, IMAGE=egresslab:0.1.0)
	@$(DOCKER) build --tag $(IMAGE) --file deploy/Dockerfile $(if $(BASE),--build-arg BASE=$(BASE)) build/image

.PHONY: FORCE image image-files

clean: down  ## remove what make made
	@rm -rf $(VENV) build dist $(OBJECT)
	@$(MAKE) --no-print-directory --silent -C egresslab/agent/cni clean
