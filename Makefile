# Every command of the README. Needs make and Python 3.11 or 3.12; all else goes into .venv.
#
#   make classify TEXT="a gripping , funny film"     classify one sentence under encryption
#   make test                                        lint, types, tests, one encrypted run

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/installed
# Data: a folder with SST-2's train.tsv and dev.tsv; unlabelled sentences to distil on as well.
SST2 ?= ../shared/data/glue/sst2
SENTENCES ?= ../shared/data/reviews/sentences.txt.gz
GLUE ?= ../shared/data/glue
SIZE ?= nano
TASK ?= sst2
RECIPE ?= aligned
# Processes that run tests side by side; unit tests with one thread each.
WORKERS ?= 2
# What test-all runs beside lint and unit tests, in processes side by side, of one thread each.
ENCRYPTED := "(end_to_end or fhe or packaging) and not timing and not slow"
# Options for the command behind a target, for example ARGS="--mode simulate".
ARGS ?=

# The text reaches the command as an environment variable, never as shell source, and
# unexpanded: apostrophes, quotes and dollar signs need no care.
export FHE_INHIBITOR_TEXT := $(value TEXT)

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: environment
environment: $(STAMP) ## build .venv

.PHONY: classify
classify: $(STAMP) ## classify TEXT, encrypted here and now
	@$(BIN)/fhe-inhibitor classify $(ARGS) -- "$$FHE_INHIBITOR_TEXT"

.PHONY: evaluate
evaluate: $(STAMP) ## accuracy of the integer model on SST-2's development set
	$(BIN)/fhe-inhibitor evaluate --data $(SST2)/dev.tsv $(ARGS)

.PHONY: compile
compile: $(STAMP) ## circuits, client specifications and the report, in build/circuits
	@rm -rf build/circuits
	$(BIN)/fhe-inhibitor compile --out build/circuits $(ARGS)

.PHONY: demo
demo: $(STAMP) ## client and server in one file, step by step
	$(BIN)/python -m demos.local_round_trip

.PHONY: notebook
notebook: $(STAMP) ## run demos/tour.ipynb and store its outputs in it
	$(BIN)/python -m demos.notebook $(ARGS)

.PHONY: export
export: $(STAMP) ## the shipped model as ONNX graphs, float and quantized, in build
	@mkdir -p build
	$(BIN)/fhe-inhibitor export --out build/float.onnx $(ARGS)
	$(BIN)/fhe-inhibitor export --quantized --out build/quantized.onnx $(ARGS)

.PHONY: attention-speed
attention-speed: $(STAMP) ## time and memory of the attention that models train with
	$(BIN)/python -m demos.attention_speed $(ARGS)

.PHONY: demo-server
demo-server: $(STAMP) ## a server, step by step; demos/README.md walks through
	$(BIN)/python -m demos.server $(ARGS)

.PHONY: demo-client
demo-client: $(STAMP) ## its client, in another terminal
	$(BIN)/python -m demos.client $(ARGS)

.PHONY: service-overhead
service-overhead: $(STAMP) ## a server on this machine against one process: seconds, bytes
	$(BIN)/python -m demos.service_overhead $(ARGS)

.PHONY: cluster-overhead
cluster-overhead: $(STAMP) ## a cluster on this machine against one process; four sentences at once
	$(BIN)/python -m demos.cluster_overhead $(ARGS)

.PHONY: figures
figures: $(STAMP) ## accuracy against encrypted time: table and plot, in docs
	$(BIN)/python -m demos.accuracy_and_time --data $(SST2) $(ARGS)

# The HTML stays out of docs, where the site makes one of the same name of the Markdown.
.PHONY: report
report: $(STAMP) ## the shipped model's page for a paper, in docs/report_example: for a quiet machine
	$(BIN)/fhe-inhibitor report --repeat 6 --data $(SST2)/dev.tsv --dataset sst2 \
	    --evaluation docs/decrypted_accuracy/nano.jsonl --price '0.05 EUR' \
	    --out docs/report_example $(ARGS)
	rm docs/report_example/report.html

.PHONY: neighbours
neighbours: $(STAMP) ## what else could be done on SST-2: accuracy, encrypted time; docs/neighbours.md
	$(BIN)/python -m demos.neighbours --data $(SST2) $(ARGS)

.PHONY: digits
digits: $(STAMP) ## images under encryption: trains, compiles, decrypts 20; docs/digits.md
	$(BIN)/python -m demos.digits $(ARGS)

.PHONY: ablation
ablation: $(STAMP) ## what limits a nano student: tokens, capacity, bits, noise; docs/ablation.md
	$(BIN)/python -m demos.ablation --data $(SST2) --sentences $(SENTENCES) $(ARGS)

.PHONY: benchmark
benchmark: $(STAMP) ## one attention head, encrypted, n to 16, four circuits; goes on where it stopped
	$(BIN)/fhe-inhibitor benchmark attention $(ARGS)

.PHONY: benchmark-quick
benchmark-quick: $(STAMP) ## the same to n = 4, within five minutes
	$(BIN)/fhe-inhibitor benchmark attention --quick --out build/benchmarks-quick $(ARGS)

.PHONY: benchmark-plaintext
benchmark-plaintext: $(STAMP) ## the same head in the clear, n to 1024
	$(BIN)/fhe-inhibitor benchmark plaintext $(ARGS)

.PHONY: scaling
scaling: $(STAMP) ## one encrypted sentence on 1, 2, ... threads and workers: for a quiet machine
	$(BIN)/fhe-inhibitor benchmark scaling --workers 1,2 $(ARGS)

.PHONY: scaling-simulated
scaling-simulated: $(STAMP) ## a full-depth sentence on many machines, simulated from its cost
	$(BIN)/fhe-inhibitor benchmark scaling --simulate --split 64 --tokens 24 \
	    --model inhibidistilbert-full-depth-sst2 $(ARGS)

.PHONY: benchmark-report
benchmark-report: $(STAMP) ## docs/benchmarks.md and docs/scaling.md from the results of all
	$(BIN)/fhe-inhibitor benchmark report $(ARGS)

.PHONY: train
train: $(STAMP) ## the recipe of the shipped checkpoint; SIZE=small, full-depth or full-size of others
	$(BIN)/fhe-inhibitor train --size $(SIZE) --data $(SST2) --sentences $(SENTENCES) \
	    --out build/inhibidistilbert-$(SIZE)-sst2 $(ARGS)

.PHONY: distill
distill: $(STAMP) ## a student of full depth on TASK, by RECIPE: hours; see docs/training.md
	$(BIN)/fhe-inhibitor distill --recipe $(RECIPE) --task $(TASK) --data $(GLUE)/$(TASK) \
	    --out build/$(RECIPE)-$(TASK) $(ARGS)

.PHONY: experiments
experiments: $(STAMP) ## every experiment of the plan that has no result yet: a day
	$(BIN)/fhe-inhibitor experiments run $(ARGS)

.PHONY: experiments-report
experiments-report: $(STAMP) ## docs/experiments.md from the results
	$(BIN)/fhe-inhibitor experiments report $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers auto

.PHONY: test-fast
test-fast: $(STAMP) ## unit tests: nothing is encrypted
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

.PHONY: test
test: lint test-fast ## lint, types, unit tests, and the shipped model encrypted end to end
	$(BIN)/pytest -m end_to_end tests/compile/local

.PHONY: test-all
test-all: lint test-fast ## that, all encrypted tests, the service's faults and load, the wheel, the docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	    -m $(ENCRYPTED) tests

.PHONY: test-timing
test-timing: $(STAMP) ## tests that compare seconds, for a quiet machine
	$(BIN)/pytest -m "timing and not slow" -s tests

.PHONY: test-slow
test-slow: $(STAMP) ## tests that train or run at full size
	$(BIN)/pytest -m slow

.PHONY: test-browser
test-browser: $(STAMP) ## pages in a real Chromium; needs it, and pip install '.[browser]'
	@$(BIN)/python -m tests.browsing
	$(BIN)/pytest -n 0 -m browser tests

.PHONY: screenshots
screenshots: $(STAMP) ## pictures of the pages, in docs/images; needs what test-browser does
	@$(BIN)/python -m tests.screenshots

.PHONY: test-service
test-service: $(STAMP) ## the service: killed, fuzzed, loaded and filled up at full length
	$(BIN)/pytest -m "" -s tests/fhe_inhibitor/service tests/fhe_inhibitor/remote \
	    tests/fhe_inhibitor/cli/test_remote.py

.PHONY: docs
docs: $(STAMP) ## the documentation as a site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: clean
clean: ## remove .venv and build
	rm -rf .venv build

# The stamp is removed first and written last: an interrupted installation starts over. Modules are
# compiled when they are imported: pip would compile thousands that nobody imports.
$(STAMP): pyproject.toml
	@python=""; \
	for name in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3 python); do \
	    if "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	        2>/dev/null; then python="$$name"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'make: no Python 3.11 or 3.12 found$(if $(PYTHON), at $(PYTHON)); install one,' \
	        'or name it: make PYTHON=/path/to/python3.11 ...' >&2; exit 2; \
	fi; \
	flag=--clear; if [ -e $@ ]; then flag=""; fi; rm -f $@; \
	echo "Building .venv with $$("$$python" --version) (a minute or two)"; \
	"$$python" -m venv $$flag .venv; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
	    -e '.[dev]'; \
	touch $@
