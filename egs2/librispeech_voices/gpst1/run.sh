#!/usr/bin/env bash
# Many voices, a few seconds of each and no transcripts: GPST in the modes that need no text, in Lyra's codes.
#
#   ./run.sh --corpus PATH             a folder with train-…/ and test-…/ of SPEAKER-CHAPTER-NUMBER.flac, or a tar archive of it
#   ./run.sh --corpus PATH --codec_conf checkpoint=PATH
#                                      with Lyra's weights from a directory
#   ./run.sh --corpus PATH --stop_stage semantic_tokens
#                                      only codes and units
#   ./run.sh --corpus PATH --heard faster_whisper --score_args "--asr faster_whisper"
#                                      scores, against what the recogniser hears of the test recordings
#   ./run.sh --help                    the stages and all options
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec bash "${recipe}/../../../local/gpst.sh" \
  --recipe_dir "${recipe}" \
  --corpus_option "piece_sec heard" \
  --corpus_path corpus \
  --train_set train \
  --valid_set dev \
  --test_sets test \
  --fs 16000 \
  --codec lyra \
  --semantic logmel_km --semantic_conf "num_units=512 deltas=1" --deduplicate false \
  --train_config conf/train_voices_gpst.yaml \
  --stacking 1 \
  --decodings local_ar \
  --modes "unconditional speaker_transfer speaker_conversion" \
  --prompt_sec 3 \
  --asr_vocabulary test \
  "$@"
