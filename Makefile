# The project's commands. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
export PYTHON TORCH LOCK
ACTIVATE := source .venv/bin/activate
SCRIPTS := $(wildcard cluster/*.sh cluster/*.sbatch tests/*.sh tests/*/*.sh) .ci/run
C := $(shell find preprocess trainer tests -name '*.[ch]')

# Two tests more than there are processors, four at most: many of them wait, or start several processes.
PARALLEL := --numprocesses=$(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 2))) --maxprocesses=4 --dist=loadscope --no-loadscope-reorder

.PHONY: help setup lock demo tools check test test-all lint format bench soak release clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: ## make .venv with all requirements (a second if it is up to date)
	@cluster/setup.sh

lock: ## renew the versions in cluster/constraints.txt, which make setup installs
	@cluster/lock.sh

demo: setup ## preprocess, train and evaluate on a small synthetic ImageNet
	@$(ACTIVATE) && tests/demo.sh

tools: setup
	@PATH="$$PATH:/usr/sbin"; \
		{ command -v slurmctld && command -v munged && compgen -G "/usr/lib/*/libpmix.so"; } >/dev/null \
		|| cluster/packages.sh slurm-wlm munge libpmix-dev \
		|| echo "without them the tests of the batch scripts are skipped"
	@PATH="$$PATH:/usr/sbin:/sbin"; { command -v ip && command -v tc; } >/dev/null \
		|| cluster/packages.sh iproute2 || echo "without it the tests on several hosts are skipped"
	@{ command -v zip && command -v unzip; } >/dev/null \
		|| cluster/packages.sh zip unzip || echo "without them the tests of Kaggle's zip are skipped"
	@command -v g++ >/dev/null || cluster/packages.sh g++ || echo "without it compiled steps are not tested"
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| cluster/packages.sh chromium || echo "without it the live page's test is skipped"

check: lint ## before each commit: lint, and the fast tests (2 minutes)
	@$(ACTIVATE) && python -m pytest $(PARALLEL) -m "not slow"

test: tools ## run all tests (12 minutes on two cores)
	@$(ACTIVATE) && python -m pytest $(PARALLEL)

test-all: tools ## before each version: all tests one by one, then both soak tests (over half an hour)
	@$(ACTIVATE) && python -m pytest && python -m tests.preprocess.soak && python -m tests.trainer.soak

lint: setup ## check formatting, types, the workflow and the shell scripts
	@command -v shellcheck >/dev/null || cluster/packages.sh shellcheck
	@$(ACTIVATE) && ruff format --check . && ruff check . && mypy && clang-format --dry-run -Werror $(C) \
		&& snakefmt --check Snakefile && shellcheck $(SCRIPTS)

format: setup ## format the sources, and remake the pages that come from them
	@$(ACTIVATE) && ruff format . && ruff check --fix . && clang-format -i $(C) && snakefmt Snakefile && python -m tests.reference

bench: setup ## measure each stage, a peer and the machine's limit; make bench-STAGE: one stage
	@$(ACTIVATE) && python -m tests.benchmarks

bench-%: setup
	@$(ACTIVATE) && python -m tests.benchmarks $* --json runs/bench-$*.json

soak: setup ## interrupt runs in all ways, 100 times, and compare the results bit for bit: about 12 minutes
	@$(ACTIVATE) && python -m tests.trainer.soak

release: setup ## build dist/ for a version, and try it in a new environment
	@$(ACTIVATE) && tests/release.sh

clean: ## remove the environment and the compiled extensions
	rm -rf .venv .snakemake
	find preprocess trainer -name '*.so' -delete
