# One word a step; `make` or `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
LUMI := $(BIN)/lumi
PY := $(BIN)/python
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

# On a busy machine spinning OpenMP threads cost a factor of five; on an idle one waiting costs nothing.
export OMP_WAIT_POLICY = PASSIVE
export PYTHONUNBUFFERED = 1

WIKI := data/processed/wiki_32k_1024
OWT := data/processed/owt_32k_1024
TOKENIZER := data/tokenizer

.DEFAULT_GOAL := help
# Stages follow one another also under `make -j`; each uses all cores by itself.
.NOTPARALLEL:
.PHONY: help install check-env check format test test-unit demo prepare-corpus corpus-wiki corpus-owt \
	tokenizer-train-mix tokenizer-reset prepare-mix prepare-wiki-with-tokenizer prepare-owt-with-tokenizer data-rebuild-all reencode-dataset plan pretrain-tiny \
	pretrain-small pretrain-base test-pipeline test-pipeline-flash prepare-sft-corpus sft-train-tiny \
	sft-train-small sft-train-base sft-pipeline prepare-dpo-corpus dpo-train-tiny dpo-train-small dpo-train-base dpo chat serve export evaluate evaluate-quick assess-performance compare generate report monitor clean

##@ Start here
help: ## this list
	@test -t 1 && colour=1 || colour=0; awk -v colour=$$colour 'BEGIN {FS = ":.*## "; if (colour) {bold = "\033[1m"; \
	  cyan = "\033[36m"; off = "\033[0m"}} /^##@/ {printf "\n%s%s%s\n", bold, substr($$0, 5), off} \
	  /^[a-z-]+:.*## / {printf "  %s%-30s%s %s\n", cyan, $$1, off, $$2}' $(firstword $(MAKEFILE_LIST))

install: ## make .venv (torch first; TORCH="..." overrides which build)
	@$(PYTHON) scripts/install.py

check-env: install ## what this machine has: torch, CUDA, attention, disk, memory
	@$(LUMI) check-env

demo: install ## the whole road on a CPU in minutes: corpus, tokenizer, training, evaluation, samples, report
	@$(LUMI) demo

##@ Data
prepare-corpus: install ## CONFIG=config/datasets/sources/NAME.json [OUT=data/corpus/NAME]: clean the corpus that it describes
	@test -n "$(CONFIG)" || { echo "error: which corpus?  ->  make prepare-corpus CONFIG=config/datasets/sources/NAME.json"; exit 1; }
	@$(PY) scripts/01_prepare_corpus.py --config $(CONFIG) --output_dir $(or $(OUT),data/corpus/$(basename $(notdir $(CONFIG))))

corpus-wiki: install ## clean Wikipedia (from data/raw/wikipedia, else the hub) into data/corpus/wiki
	@$(PY) scripts/01_prepare_corpus.py --config config/datasets/sources/wikipedia_en.json --output_dir data/corpus/wiki

corpus-owt: install ## clean OpenWebText (from data/raw/openwebtext, else the hub) into data/corpus/owt
	@$(PY) scripts/01_prepare_corpus.py --config config/datasets/sources/openwebtext.json --output_dir data/corpus/owt

tokenizer-train-mix: install ## train the one tokenizer, once, on samples of both
	@$(PY) scripts/02_train_tokenizer.py --config config/datasets/training_configs/tokenizer_training_mix.json

prepare-wiki-with-tokenizer: corpus-wiki ## pack data/corpus/wiki with the frozen tokenizer
	@$(PY) scripts/03_pack_dataset.py --corpus_dir data/corpus/wiki --tokenizer_path $(TOKENIZER) --output_dir $(WIKI) $(FRESH)

prepare-owt-with-tokenizer: corpus-owt ## pack data/corpus/owt with the frozen tokenizer
	@$(PY) scripts/03_pack_dataset.py --corpus_dir data/corpus/owt --tokenizer_path $(TOKENIZER) --output_dir $(OWT) $(FRESH)

prepare-mix: install ## MIX=tiny|small|base_phase_a|base_phase_b: the data of a run, by its token budget
	@test -n "$(MIX)" || { echo "error: which mix?  ->  make prepare-mix MIX=tiny"; exit 1; }
	@$(LUMI) prepare-mix --config config/datasets/training_configs/$(MIX).json --tokenizer_path $(TOKENIZER)

data-rebuild-all: ## tokenizer (if it was reset) and both data sets, anew; asks first
	@printf 'This packs both data sets anew, and trains the tokenizer where there is none. Type YES to go on: '; \
	  read -r answer || true; test "$$answer" = YES || { echo; echo "error: nothing was done  ->  answer YES"; exit 1; }
	@$(MAKE) --no-print-directory tokenizer-train-mix
	@$(MAKE) --no-print-directory prepare-wiki-with-tokenizer prepare-owt-with-tokenizer FRESH=--fresh

reencode-dataset: install ## DIR=data/processed/NAME: pack its corpus again with the present tokenizer
	@test -n "$(DIR)" || { echo "error: which data set?  ->  make reencode-dataset DIR=data/processed/NAME"; exit 1; }
	@$(LUMI) reencode --data_dir $(DIR) --tokenizer_path $(TOKENIZER)

tokenizer-reset: install ## delete the tokenizer (asks first; everything made with it must be made again)
	@$(LUMI) tokenizer-reset --tokenizer_dir $(TOKENIZER)

##@ Training
$(WIKI)/manifest.json:
	@echo "error: $(WIKI) is missing  ->  make prepare-wiki-with-tokenizer"; exit 1

$(OWT)/manifest.json:
	@echo "error: $(OWT) is missing  ->  make prepare-owt-with-tokenizer"; exit 1

plan: install ## [CONFIG=config/tiny.json CARD="RTX 4090"]: what a run will cost, before it runs
	@$(LUMI) plan --config $(or $(CONFIG),config/tiny.json) $(if $(CARD),--card "$(CARD)")

pretrain-tiny: install $(WIKI)/manifest.json $(OWT)/manifest.json ## train tiny, 23.1M parameters; again resumes
	@$(LAUNCH) scripts/04_pretrain.py --config config/tiny.json

pretrain-small: install $(WIKI)/manifest.json $(OWT)/manifest.json ## train small, 83.9M parameters
	@$(LAUNCH) scripts/04_pretrain.py --config config/small.json

pretrain-base: install $(WIKI)/manifest.json $(OWT)/manifest.json ## train base, 276.9M parameters
	@$(LAUNCH) scripts/04_pretrain.py --config config/base.json

##@ Teaching it to answer
SFT := data/sft_processed/alpaca_chatml_32k_1024

prepare-sft-corpus: install ## [CONFIG=config/sft_datasets/NAME.json]: conversations as data (Alpaca, ChatML)
	@$(PY) scripts/02_prepare_sft_corpus.py --config $(or $(CONFIG),config/sft_datasets/alpaca_chatml.json) --tokenizer_path $(TOKENIZER)

$(SFT)/manifest.json:
	@echo "error: $(SFT) is missing  ->  make prepare-sft-corpus"; exit 1

sft-train-tiny: install $(SFT)/manifest.json ## tune the pretrained tiny with LoRA; again resumes
	@$(LAUNCH) scripts/03_sft_industrial.py --config config/sft_training/lora_tiny.json

sft-train-small: install $(SFT)/manifest.json ## the same for small
	@$(LAUNCH) scripts/03_sft_industrial.py --config config/sft_training/lora_small.json

sft-train-base: install $(SFT)/manifest.json ## the same for base
	@$(LAUNCH) scripts/03_sft_industrial.py --config config/sft_training/lora_base.json

sft-pipeline: ## prepare, train and sample, tiny
	@$(MAKE) --no-print-directory prepare-sft-corpus
	@$(MAKE) --no-print-directory sft-train-tiny
	@for question in "What is the capital of France?" "Give me three tips for learning a language."; do \
	  echo; echo "> $$question"; $(LUMI) chat --model_path checkpoints/sft_industrial/tiny/final --message "$$question"; done

DPO := data/dpo_processed/hh_rlhf_chatml_32k_1024

prepare-dpo-corpus: install ## [CONFIG=config/dpo_datasets/NAME.json]: preferences as data (hh-rlhf, ChatML)
	@$(PY) scripts/02_prepare_dpo_corpus.py --config $(or $(CONFIG),config/dpo_datasets/hh_rlhf_chatml.json) --tokenizer_path $(TOKENIZER)

$(DPO)/manifest.json:
	@echo "error: $(DPO) is missing  ->  make prepare-dpo-corpus"; exit 1

dpo-train-tiny: install $(DPO)/manifest.json ## teach the tuned tiny which answers are preferred; again resumes
	@$(LAUNCH) scripts/04_dpo.py --config config/dpo_training/tiny.json

dpo-train-small: install $(DPO)/manifest.json ## the same for small
	@$(LAUNCH) scripts/04_dpo.py --config config/dpo_training/small.json

dpo-train-base: install $(DPO)/manifest.json ## the same for base
	@$(LAUNCH) scripts/04_dpo.py --config config/dpo_training/base.json

dpo: ## prepare, train and sample, tiny
	@$(MAKE) --no-print-directory prepare-dpo-corpus
	@$(MAKE) --no-print-directory dpo-train-tiny
	@for question in "What is the capital of France?" "How can I get back at my neighbour?"; do \
	  echo; echo "> $$question"; $(LUMI) chat --model_path checkpoints/dpo/tiny/final --message "$$question"; done

chat: install ## [MODEL=checkpoints/sft_industrial/tiny/final]: talk to a tuned model
	@$(LUMI) chat --model_path $(if $(filter command line environment,$(origin MODEL)),$(MODEL),checkpoints/sft_industrial/tiny/final)

serve: install ## [MODEL=checkpoints/sft_industrial/tiny/final]: an HTTP server, as OpenAI's, and a page to talk to it
	@$(PY) scripts/06_serve.py --model_path $(if $(filter command line environment,$(origin MODEL)),$(MODEL),checkpoints/sft_industrial/tiny/final)

##@ Looking at a model (MODEL=checkpoints/pretrain/tiny/final)
MODEL ?= checkpoints/pretrain/tiny/final
RUN ?= checkpoints/pretrain/tiny

# MODEL as it was given, if it was: without it the stages take the newest.
GIVEN_MODEL = $(if $(filter command line environment,$(origin MODEL)),--model_path $(MODEL))

export: install ## MODEL=... [FORMAT=gguf|hf] [OUT=exports/NAME]: a checkpoint for transformers, vLLM, llama.cpp, Ollama
	@test "$(origin MODEL)" != file || { echo "error: which model?  ->  make export MODEL=checkpoints/dpo/tiny/final"; exit 1; }
	@$(LUMI) export --model_path $(MODEL) --format $(or $(FORMAT),gguf) --output_dir $(or $(OUT),exports/$(subst /,-,$(patsubst %/final,%,$(MODEL)))-$(or $(FORMAT),gguf))

evaluate: install ## [MODEL=...]: perplexity, tasks, texts of MODEL (default: the newest final/, tuned ones too)
	@$(PY) scripts/05_evaluate.py $(GIVEN_MODEL)

evaluate-quick: install ## [MODEL=...]: the same on a part of each, in a minute; results in evaluation_results/quick
	@$(PY) scripts/05_evaluate.py $(GIVEN_MODEL) --max_rows 50 --max_tokens 5000 --no_baselines --output_dir evaluation_results/quick

assess-performance: install ## [RESULTS=evaluation_results/NAME]: how far from the targets of its size, and what to try next
	@$(LUMI) assess $(if $(RESULTS),--results $(RESULTS))

compare: install ## MODELS="A B": measured models side by side (results folders, or checkpoints), and what can be told apart
	@test -n "$(MODELS)" || { echo "error: which models?  ->  make compare MODELS=\"evaluation_results/A evaluation_results/B\""; exit 1; }
	@$(LUMI) compare $(MODELS)

generate: install ## PROMPT="...": let MODEL go on
	@$(LUMI) generate --model_path $(MODEL) --prompt "$(PROMPT)"

report: install ## [RUN="checkpoints/pretrain/tiny ..."]: one HTML page about a run, or several side by side
	@$(LUMI) report $(RUN)

monitor: install ## [RUN=...]: watch a run live, from another terminal (default: the newest)
	@$(LUMI) monitor $(if $(filter command line environment,$(origin RUN)),--run_dir $(RUN))

##@ Development
check: install ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: install ## mend format and what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: install ## all tests
	@$(BIN)/pytest

test-unit: install ## the quick ones
	@$(BIN)/pytest tests/unit

SYNTHETIC := --corpus config/datasets/sources/synthetic.json --data config/datasets/training_configs/synthetic.json \
	--pretrain config/test_pipeline.json --prompts "The fox" "It was" \
	--conversations config/sft_datasets/synthetic.json --sft config/sft_training/test_pipeline.json \
	--preferences config/dpo_datasets/synthetic.json --dpo config/dpo_training/test_pipeline.json \
	--questions "Who went to the mill?" "What did Ada find?"

test-pipeline: install ## the whole road on synthetic text with plain attention, in a minute or two
	@rm -rf runs/test-pipeline
	@$(LUMI) demo $(SYNTHETIC) --output_dir runs/test-pipeline

test-pipeline-flash: install ## the same with FlashAttention (needs a CUDA card and the flash-attn package)
	@rm -rf runs/test-pipeline-flash
	@$(LUMI) demo $(SYNTHETIC) --output_dir runs/test-pipeline-flash --attention flash

clean: ## delete caches and test runs; never data, checkpoints or .venv
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist runs/test-pipeline runs/test-pipeline-flash
	@find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
