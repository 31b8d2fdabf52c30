#!/usr/bin/env bash
# Your own recordings: from a folder of audio and texts to a voice, and its scores (docs/own-data.md).
#
#   ./run.sh --corpus PATH             metadata.csv, a .txt beside each recording, or a Kaldi data directory
#   ./run.sh --corpus PATH --stop_stage data
#                                      only checks everything and says it in data/report.md
#   ./run.sh --corpus PATH --init_from EXP
#                                      a few minutes of a new voice, from an experiment that speaks already
#   ./run.sh --help                    the stages and all options
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
shared=${here}/../../../local
# shellcheck source=../../../local/parse_options.sh
. "${shared}/parse_options.sh"

value() { option_value "$1" "$2" "${defaults[@]}" "${@:3}"; }

# PATH as it is from everywhere; what is not there stays as it is
full() { if [[ -e $1 ]]; then realpath -s "$1"; else printf '%s\n' "$1"; fi; }

defaults=(--recipe_dir "${here}" --codec world_vq --fs 16000 --stacking "1 2" --size auto --datadir data)
corpus=$(full "$(value corpus "" "$@")")
init_from=$(value init_from "" "$@")
[[ -z ${init_from} ]] || init_from=$(full "${init_from%/}")
first=$(value stage 1 "$@") last=$(value stop_stage score "$@") recipe=$(value recipe_dir . "$@")
stacking=$(value stacking "1 2" "$@")
datadir=$(value datadir data "$@")
[[ ${datadir} == /* ]] || datadir=${recipe}/${datadir}

# changes in the corpus are seen by names, sizes and times: to read all of its audio again would take too long
state=""
if [[ -e ${corpus} && ${first} =~ ^(1|data)$ ]]; then
  state=$(find "${corpus}" -name '.*' -prune -o -type f -printf '%P %s %T@\n' | LC_ALL=C sort | cksum)
fi
common=(
  "${defaults[@]}"
  --corpus_option "corpus corpus_state layout audio_dir encoding delimiter speaker_from language sample estimate init_from"
  --train_set train
  --valid_set dev
  --test_sets test
  --decodings "parallel local_ar"
  --cleaner lower
  --local_data_opts "--codec $(value codec "" "$@") --fs $(value fs "" "$@") --stacking ${stacking// /,} \
--threads $(value max_parallel_train 2 "$@") --min_sec $(value min_wav_duration 0.3 "$@") --max_sec $(value max_wav_duration 20 "$@")"
)
own=(--corpus "${corpus}" --corpus_state "${state// /_}")
[[ -z ${init_from} ]] || own+=(--init_from "${init_from}")

[[ " $* " != *' --help '* && " $* " != *' -h '* ]] || exec bash "${shared}/codec_lm.sh" "${common[@]}" "$@"
# what stage data finds out decides the options of the later ones
if [[ ${first} =~ ^(1|data)$ ]]; then
  bash "${shared}/codec_lm.sh" "${common[@]}" "$@" "${own[@]}" --stage data --stop_stage data
  [[ ! ${last} =~ ^(1|data)$ ]] || exit 0
  own+=(--stage 2)
fi
[[ -f ${datadir}/chosen_options ]] || usage_error "--stage must be data at first: ${datadir}/chosen_options is not there"
mapfile -t chosen < "${datadir}/chosen_options"
exec bash "${shared}/codec_lm.sh" "${common[@]}" "${chosen[@]}" "$@" "${own[@]}"
