#!/usr/bin/env bash
# Tunes a prompt of 100 vectors for T5 1.1 base (LM-adapted) on SST-2: 50,000 steps after the checkpoint's 1,100,000.
#
#   MODEL_DIR=runs/sst2 TFDS_DATA_DIR=/data/tfds ./sst2-demo.sh [more arguments of `prompt-tuning train`]
#
# Required:
#   MODEL_DIR      the folder of the run; an existing run is resumed
#   TFDS_DATA_DIR  the data folder of TensorFlow Datasets, with glue/sst2:2.0.0
# Optional:
#   CHECKPOINT     the frozen model; default: the published one. A local copy starts faster and needs no network
#   ENGINE         the program: prompt_tuning (the default), or t5x if T5X and Flaxformer are installed (docs/t5x.md)
#
# Arguments come last, so they override: --dry_run prints the plan (not with ENGINE=t5x), --gin.BATCH_SIZE=32 sets one.
set -euo pipefail

: "${MODEL_DIR:?is not set. Set it to the folder of the run, such as MODEL_DIR=runs/sst2}"
: "${TFDS_DATA_DIR:?is not set. Set it to the data folder of TensorFlow Datasets, with glue/sst2:2.0.0}"
CHECKPOINT="${CHECKPOINT:-gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_base/checkpoint_1100000}"
PROMPT_DIR="$(python3 -m prompt_tuning.scripts.find_module prompt_tuning)"
case "${ENGINE:=prompt_tuning}" in
  prompt_tuning) CONFIGS="${PROMPT_DIR}/configs" ;;
  t5x) CONFIGS="${PROMPT_DIR}/t5x_plugin/configs" ;;
  *) echo "ENGINE is ${ENGINE}. Set it to prompt_tuning or t5x." >&2; exit 1 ;;
esac

python3 -m "${ENGINE}.train" \
  --gin_file="${CONFIGS}/models/t5_1_1_base_prompt.gin" \
  --gin_file="${CONFIGS}/prompts/from_class_labels.gin" \
  --gin_file="${CONFIGS}/runs/prompt_finetune.gin" \
  --gin.CLASS_LABELS="['positive', 'negative']" \
  --gin.MODEL_DIR="'${MODEL_DIR}'" \
  --gin.MIXTURE_OR_TASK_NAME="'taskless_glue_sst2_v200_examples'" \
  --gin.MIXTURE_OR_TASK_MODULE="'prompt_tuning.data.glue'" \
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 8}" \
  --gin.INITIAL_CHECKPOINT_PATH="'${CHECKPOINT}'" \
  --gin.TRAIN_STEPS=1_150_000 \
  --gin.BATCH_SIZE=128 \
  --gin.USE_CACHED_TASKS=False \
  --tfds_data_dir="${TFDS_DATA_DIR}" \
  "$@"
