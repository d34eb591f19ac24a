#!/usr/bin/env bash
# Runs sst2-demo.sh for T5 1.1 XXL instead of base; see there for the settings.
#
# The frozen model is held as bfloat16, which halves its memory, and each batch of 128 is split into 16 microbatches.
set -euo pipefail

export CHECKPOINT="${CHECKPOINT:-gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_xxl/checkpoint_1100000}"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

exec bash "${HERE}/sst2-demo.sh" \
  --gin_file="${HERE}/../configs/models/sizes/xxl.gin" \
  --gin.utils.RestoreCheckpointConfig.dtype="'bfloat16'" \
  --gin.LAYER_REMAT="'full'" \
  --gin.trainer.Trainer.num_microbatches=16 \
  "$@"
