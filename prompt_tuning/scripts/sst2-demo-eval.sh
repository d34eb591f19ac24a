#!/usr/bin/env bash
# Evaluates a prompt for T5 1.1 base (LM-adapted) on SST-2's validation examples.
#
#   EVAL_DIR=runs/sst2_eval TFDS_DATA_DIR=/data/tfds PROMPT_FILE=sst2.npy ./sst2-demo-eval.sh [more arguments]
#
# Required:
#   EVAL_DIR       the folder for metrics and predictions
#   TFDS_DATA_DIR  the data folder of TensorFlow Datasets, with glue/sst2:2.0.0
#   PROMPT_FILE    the prompt: a released one, which is not part of this package, or the MODEL_DIR of sst2-demo.sh
# Optional:
#   CHECKPOINT     the frozen model; default: the published one. A local copy starts faster and needs no network
#   ENGINE         the program: prompt_tuning (the default), or t5x if T5X and Flaxformer are installed (docs/t5x.md)
#
# Arguments are those of `prompt-tuning eval`, or of `python3 -m t5x.eval`. They come last, so they override.
set -euo pipefail

: "${EVAL_DIR:?is not set. Set it to the folder for metrics and predictions, such as EVAL_DIR=runs/sst2_eval}"
: "${TFDS_DATA_DIR:?is not set. Set it to the data folder of TensorFlow Datasets, with glue/sst2:2.0.0}"
: "${PROMPT_FILE:?is not set. Released prompts are not part of this package: download one and set PROMPT_FILE to it, \
or to the MODEL_DIR of sst2-demo.sh}"
CHECKPOINT="${CHECKPOINT:-gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_base/checkpoint_1100000}"
PROMPT_DIR="$(python3 -m prompt_tuning.scripts.find_module prompt_tuning)"
case "${ENGINE:=prompt_tuning}" in
  prompt_tuning) CONFIGS="${PROMPT_DIR}/configs" ;;
  t5x) CONFIGS="${PROMPT_DIR}/t5x_plugin/configs" ;;
  *) echo "ENGINE is ${ENGINE}. Set it to prompt_tuning or t5x." >&2; exit 1 ;;
esac

python3 -m "${ENGINE}.eval" \
  --gin_file="${CONFIGS}/models/t5_1_1_base_prompt.gin" \
  --gin_file="${CONFIGS}/runs/prompt_eval.gin" \
  --gin.CHECKPOINT_PATH="'${CHECKPOINT}'" \
  --gin.PROMPT_FILE="'${PROMPT_FILE}'" \
  --gin.MIXTURE_OR_TASK_NAME="'taskless_glue_sst2_v200_examples'" \
  --gin.MIXTURE_OR_TASK_MODULE="'prompt_tuning.data.glue'" \
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 8}" \
  --gin.utils.DatasetConfig.split="'validation'" \
  --gin.USE_CACHED_TASKS=False \
  --gin.EVAL_OUTPUT_DIR="'${EVAL_DIR}'" \
  --tfds_data_dir="${TFDS_DATA_DIR}" \
  "$@"
