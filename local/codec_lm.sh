#!/usr/bin/env bash
# A codec language model from audio and text to scores, in eleven stages. Called by egs2/<corpus>/codec_lm1/run.sh with the
# corpus's own defaults; every relative path is relative to that recipe's directory. `run.sh --help` lists everything.
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # recipe.sh declares the options, and calls the functions by name

# shellcheck source=recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
# shellcheck source=codec_lm_stages.sh
. "${shared}/codec_lm_stages.sh"

stages=(data format filter codec codec_tokens token_list stats train tune inference score)

declare_options() {
  declare_shared_options
  option base_config "" "training configuration of a model with one frame per step that those of all S begin with; empty: none"
  option base_args "" "further options of codec_lm_train for it"
  option init_from "" "experiment whose codec, tokens and weights the training begins with instead of a base"
  option tune false "choose temperature, top-k and guidance of each strategy on the validation set, unless --inference_config is given"
  option tune_utterances 0 "utterances of the validation set to choose on; 0: all"
  option tune_args "" "further options of tune"
  option pair_list "" "one more test set: a list of pairs in F5-TTS' format, see docs/evaluation.md"
  option pair_audio "" "folder of its recordings, SPEAKER/CHAPTER/ID.flac or .wav"
  option pair_text listed "its texts: as listed, or as words: in lower case without punctuation"
  option num_repeats 1 "times that each strategy decodes a test set, with different seeds; scores are then means"
}

check_options() {
  add_pairs
  check_shared_options
  [[ ${tune_utterances} =~ ^[0-9]+$ ]] || usage_error "--tune_utterances must be a whole number, got '${tune_utterances}'"
  [[ ${num_repeats} =~ ^[1-9][0-9]*$ ]] || usage_error "--num_repeats must be a number of at least 1, got '${num_repeats}'"
}

# add_pairs: the list of pairs becomes a test set of its own, pairs_NAME, behind the others
add_pairs() {
  local name
  pair_set=""
  [[ -n ${pair_list} ]] || { [[ -z ${pair_audio} ]] || usage_error "--pair_audio must come with --pair_list"; return 0; }
  for name in pair_list pair_audio; do # a path that exists where the user stands means that path
    [[ -z ${!name} || ! -e ${caller_dir}/${!name} ]] || printf -v "${name}" '%s' "${caller_dir}/${!name}"
  done
  [[ -f ${pair_list} ]] || usage_error "--pair_list must be an existing file, got '${pair_list}'"
  [[ -d ${pair_audio} ]] || usage_error "--pair_audio must be the folder of the recordings of --pair_list, got '${pair_audio}'"
  [[ ${pair_text} == listed || ${pair_text} == words ]] || usage_error "--pair_text must be listed or words, got '${pair_text}'"
  pair_set=pairs$(short_name "$(conf_name "${pair_list}")")
  test_sets+=" ${pair_set}"
}

check_tokenizers() { [[ -n ${init_from} ]] || check_codec; }

# decode_config STRATEGY [STACKING]: what stage tune has chosen for the model, unless something else is asked for
decode_config() {
  local tuned=""
  [[ -z ${2-} || ${tune} == false || -n ${inference_config} ]] || tuned=$(model_dir "$2")/decode/decode_$1.yaml
  if [[ -f ${tuned} ]]; then printf '%s\n' "${tuned}"; else conf_path "${inference_config:-conf/decode_$1.yaml}"; fi
}

# before the first stage: a misspelt strategy should not be found after the training
check_decodings() {
  local strategy
  if [[ -n ${inference_config} ]]; then
    require_conf inference_config "$(conf_path "${inference_config}")"
    return
  fi
  for strategy in ${decodings}; do
    [[ -f $(decode_config "${strategy}") ]] ||
      usage_error "--decodings must be strategies with a conf/decode_<strategy>.yaml each, got '${strategy}'"
  done
}

set_names() {
  local name
  name=$(conf_name "${train_config}")
  train_config=$(conf_path "${train_config}")
  [[ -z ${base_config} ]] || base_config=$(conf_path "${base_config}")
  [[ -z ${init_from} || -z ${base_config} ]] || usage_error "--base_config must be left out with --init_from, got '${base_config}'"
  set_shared_names
  stats_dir=${expdir}/codec_lm_stats_${codec_tag}_${token_name}
  tag=${tag:-${name}_${codec_tag}_${token_name}$(short_name "${train_args//--/}")}
}

# the model that those of all S begin with does not depend on what is trained behind it
base_dir() {
  printf '%s/base_%s_%s_%s%s\n' "${expdir}" "$(conf_name "${base_config}")" "${codec_tag}" "${token_name}" \
    "$(short_name "${base_args//--/}")"
}

model_dir() { printf '%s/codec_lm_%s_s%d\n' "${expdir}" "${tag}" "$1"; }

# decode_dir STACKING STRATEGY REPEAT
decode_dir() {
  local seed=""
  (( $3 == 0 )) || seed=_seed$3
  printf '%s/decode_%s%s%s\n' "$(model_dir "$1")" "$2" "${inference_tag:+_${inference_tag}}" "${seed}"
}

summary() {
  show sampling "${expdir}/codec_lm_${tag}_s*/decode/TUNED.md"
  show speech "${expdir}/codec_lm_${tag}_s*/decode_*/*/wav" "${expdir}/codec_lm_${tag}_s*/decode_*/*/wav/"
  show figures "${expdir}/scoring/*/figures" "${expdir}/scoring/*/figures/"
  [[ -z ${pair_set} ]] || show pairs "${expdir}/${pair_set}.md"
  show results "${expdir}/RESULTS.md"
}

run_recipe "$@"
