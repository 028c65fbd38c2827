# make run    the default study, from raw data to the audited report
# make test   every test that CI runs, but for the scheduler's (make test-slurm) and those of machine code (make test-compiled)
# make bench  times against other packages, into results/benchmarks/
# make bench-accelerator  the largest models on one GPU, against its own matrix products
# make bench-accuracy  potentials beside those that their authors' trainers train, on the same frames; hours, run by run
# make test-scale  all of MOSES and ten million made molecules: the same bytes through kills, in bounded memory; an hour
# make test-faults  a cell killed at random moments, and spread over ranks and stages of ZeRO: the same results; long
# make test-memory  the model of a run's memory against the measured peaks of every rank; long
# make test-verdicts  verdicts of the default study, once it is finished, and of simulated ones under other seeds and levels; long
# make test-compiled  machine code of every potential against torch; minutes
# make test-forgeries  whole studies made again around each known forgery, clean studies and hostile folders; half an hour
# Each sets up .venv first where pyproject.toml or constraints.txt changed since the last set-up.

PYTHON ?= python3
# options of pip that choose a build of torch, such as the index of CPU builds; see PyTorch's installation page
TORCH_ARGS ?=
# processor cores that the study and the tests may use
CORES ?= 2
# the study
CONFIG ?= config.yaml

BIN := .venv/bin
STAMP := .venv/.set-up
# potentials' peers have an environment of their own
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.set-up
# transformers 4 and what it needs beside .venv's packages: a test puts this folder first on Python's path
TRANSFORMERS4 := .venv-transformers4
TRANSFORMERS4_STAMP := $(TRANSFORMERS4)/.set-up
EXTRAS := train,zero,data,study,workflow,test,dev

.PHONY: run test check bench bench-accelerator bench-accuracy test-scale test-faults test-memory test-verdicts test-compiled test-forgeries test-slurm venv clean distclean
.DEFAULT_GOAL := run

run: $(STAMP)
	@$(BIN)/python workflow/run_study.py --cores $(CORES) --configfile $(CONFIG)

test: $(STAMP) $(TRANSFORMERS4_STAMP)
	$(BIN)/python -m pytest -n $(CORES) --dist loadgroup

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	bash -n .ci/run tests/slurm/cluster.sh

# what only the peers of a benchmark take
bench: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS),bench]'
	$(BIN)/python tests/benchmarks/prepare_molecules.py
	$(BIN)/python tests/benchmarks/train_language.py
	$(BIN)/python tests/benchmarks/potentials/run.py $(PEERS)/bin/python

bench-accuracy: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python tests/benchmarks/accuracy/run.py $(PEERS)/bin/python

# schnetpack declares a newer Python than it needs
$(PEERS_STAMP): tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet $(TORCH_ARGS) -r tests/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps --ignore-requires-python schnetpack==2.2.0
	touch $(PEERS_STAMP)

$(TRANSFORMERS4_STAMP): tests/peers/transformers4.txt | $(STAMP)
	rm -rf $(TRANSFORMERS4)
	$(BIN)/python -m pip install --quiet --no-deps --target $(TRANSFORMERS4) -r tests/peers/transformers4.txt
	@touch $@

bench-accelerator: $(STAMP)
	$(BIN)/python tests/benchmarks/train_accelerator.py

test-scale: $(STAMP)
	$(BIN)/python tests/benchmarks/scale.py moses
	$(BIN)/python tests/benchmarks/mutants.py data/scale/moses_two_workers data/scale/mutants.smi 10000000
	$(BIN)/python tests/benchmarks/scale.py mutants data/scale/mutants.smi

test-faults: $(STAMP)
	$(BIN)/python tests/benchmarks/kills.py
	$(BIN)/python tests/benchmarks/engines.py

test-memory: $(STAMP)
	$(BIN)/python tests/benchmarks/memory.py

test-verdicts: $(STAMP)
	$(BIN)/python tests/benchmarks/verdicts.py results/quickstart

test-compiled: $(STAMP)
	$(BIN)/python -m pytest -m machine_code

test-forgeries: $(STAMP)
	$(BIN)/python -m pytest -m forgeries tests/workflow

test-slurm: $(STAMP)
	tests/slurm/cluster.sh run $(BIN)/python -m pytest -m slurm tests/slurm

venv: $(STAMP)

# torch comes first and alone, so that no other package brings a build of its own choice along
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "chemscale needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/pip || { echo "setting up .venv: some minutes, about 2.5 GB"; $(PYTHON) -m venv .venv; }
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_ARGS) torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

# what the workflow derived: results (but for the committed benchmarks), Snakemake's records, caches
clean:
	find results -mindepth 1 -maxdepth 1 -type d ! -name benchmarks -exec rm -rf {} + 2>/dev/null || true
	rm -rf .snakemake .mypy_cache .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# the prepared data and the environment, too
distclean: clean
	rm -rf data .venv .venv-peers $(TRANSFORMERS4) ./*.egg-info
