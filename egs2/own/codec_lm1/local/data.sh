#!/usr/bin/env bash
# Stage 1 of the recipe for your own recordings: a corpus in any known layout -> data/{train,dev,test} and data/report.md.
# Run from the recipe's directory:  bash local/data.sh --corpus PATH [--speaker_from folder]
set -euo pipefail

shared=../../../local
# shellcheck source=../../../../local/parse_options.sh
. "${shared}/parse_options.sh"

option python python3 "Python interpreter"
option datadir data "Kaldi data directories to write, and the page"
option size auto "auto, 20min, 2h, 20h, 200h, or tiny for a trial run"
option corpus "" "folder of the recordings"
option corpus_state "" "names, sizes and times of its files, so that a change is noticed"
option layout auto "table, beside, kaldi, hugging_face, lhotse; auto: the one that fits"
option audio_dir "" "folders besides the corpus that audio may lie in"
option encoding utf-8 "of the texts"
option delimiter "" "of the columns of metadata.csv; empty: | or tab or comma, whichever is there"
option speaker_from auto "folder, column, prefix, one; auto: column where there is one"
option language "" "of utterances that name none, such as en or de"
option sample 200 "utterances that are decoded to hear clipping and silence"
option estimate yes "no: do not measure how long the training will take"
option min_sec 0.3 "shorter utterances are skipped"
option max_sec 20 "longer utterances are skipped"
option codec world_vq "for the estimate"
option fs 16000 "sample rate of the codec, Hz"
option stacking "1,2" "for the estimate"
option threads 2 "trainings side by side"
option init_from "" "experiment to begin with"
usage() { printf 'usage: local/data.sh [--name value]...\n'; print_options; }
parse_options "$@"
[[ -n ${corpus} ]] || usage_error "--corpus must be a folder of recordings (docs/own-data.md), got none"

"${python}" "${shared}/corpus_dir.py" --conf_dir ../../../conf --datadir "${datadir}" --size "${size}" --corpus "${corpus}" \
  --layout "${layout}" --audio_dir "${audio_dir}" --encoding "${encoding}" --delimiter "${delimiter}" \
  --speaker_from "${speaker_from}" --language "${language}" --sample "${sample}" --estimate "${estimate}" \
  --min_sec "${min_sec}" --max_sec "${max_sec}" --codec "${codec}" --fs "${fs}" --stacking "${stacking}" \
  --threads "${threads}" --init_from "${init_from}"
