# Each target is one command from a clean clone: python3, git and make are all that it needs.
VENV ?= .venv
PROJECT := {{cookiecutter.proj_name}}
RUN := demo/my_project/experiments/digits
REQUIREMENTS := requirements-dev.txt $(foreach part,requirements requirements-dev requirements-deploy,$(PROJECT)/$(part).txt)
INSTALLED := $(VENV)/.installed
export PATH := $(abspath $(VENV))/bin:$(PATH)
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-all lint bench clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

demo: $(INSTALLED)  ## render a project into demo/, train it on real handwritten digits, evaluate it
	rm -rf demo
	cookiecutter . --no-input --default-config --output-dir demo
	cd demo/my_project && python train.py --config configs/default.yaml
	cd demo/my_project && python evaluate.py --config configs/eval.yaml --model_pt experiments/digits/checkpoints/best_accuracy.pt
	@echo
	@echo 'On the validation set:'
	@sed -n '/ best  /,$$p' $(RUN)/train.log
	@echo 'The experiment:         $(RUN)'
	@echo 'Look at its curves:     $(VENV)/bin/tensorboard --logdir $(RUN)/event'

test: $(INSTALLED)  ## the project's tests, in place, then the template's
	cd '$(PROJECT)' && python -m pytest -n 2
	python -m pytest -n 2

test-all: $(INSTALLED)  ## the same with the long campaigns: kills, ranks, compilation, a Slurm cluster
	FULL=1 $(MAKE) test

lint: $(INSTALLED)  ## ruff, types and shellcheck, on the template and the project
	ruff check .
	ruff format --check .
	cd '$(PROJECT)' && pyrefly check
	shellcheck .ci/run '$(PROJECT)'/scripts/*.sh

bench: $(INSTALLED)  ## the engine beside loops by hand and its peers, which it installs; writes docs/speed.md
	python benchmarks/run.py --page docs/speed.md

clean:  ## remove what the targets above made
	rm -rf '$(VENV)' demo benchmarks/.venv

$(INSTALLED): $(REQUIREMENTS) constraints.txt
	python3 -m venv '$(VENV)'
	python -m pip install $(foreach file,$(REQUIREMENTS),-r '$(file)') -c constraints.txt
	touch '$@'
