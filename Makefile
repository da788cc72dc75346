# The project's commands. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
export PYTHON
ACTIVATE := source .venv/bin/activate
SCRIPTS := $(wildcard cluster/*.sh cluster/*.sbatch) tests/demo.sh .ci/run

.PHONY: help setup demo test lint format bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: ## make .venv with everything in it (seconds when it is there)
	@cluster/setup.sh

demo: setup ## the whole job on a small synthetic ImageNet: preprocess, train, evaluate
	@$(ACTIVATE) && tests/demo.sh

test: setup ## every test
	@PATH="$$PATH:/usr/sbin"; { command -v slurmctld && command -v munged; } >/dev/null \
		|| cluster/packages.sh slurm-wlm munge || echo "without them the tests of the batch scripts are skipped"
	@$(ACTIVATE) && python -m pytest

lint: setup ## formatting, types, workflow and shell scripts
	@command -v shellcheck >/dev/null || cluster/packages.sh shellcheck
	@$(ACTIVATE) && ruff format --check . && ruff check . && mypy \
		&& snakefmt --check Snakefile && shellcheck $(SCRIPTS)

format: setup ## rewrite the sources in the project's format
	@$(ACTIVATE) && ruff format . && ruff check --fix . && snakefmt Snakefile

bench: setup ## images per second of each stage, beside a peer and the limit
	@$(ACTIVATE) && python -m tests.benchmarks

clean: ## remove the environment and what was made from the miniature
	rm -rf .venv .snakemake
