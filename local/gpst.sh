#!/usr/bin/env bash
# A generative pre-trained speech transformer (GPST) from audio and text to scores, in fourteen stages. Called by
# egs2/<corpus>/gpst1/run.sh with the corpus's own defaults; relative paths are relative to that recipe's directory.
# `run.sh --help` lists everything.
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # recipe.sh declares the options, and calls the functions by name

# shellcheck source=recipe.sh
. "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
# shellcheck source=gpst_stages.sh
. "${shared}/gpst_stages.sh"

stages=(data format filter codec codec_tokens semantic semantic_tokens mix token_list stats train train_tts inference score)
known_modes=(unconditional semantic_to_acoustic speaker_transfer speaker_conversion continuation tts)

declare_options() {
  declare_shared_options
  option stop_stage "${#stages[@]}" "last stage to run, number or name"
  option semantic mfcc_km "semantic tokenizer (registry of espnet_ext.tokenizers.semantic)"
  option semantic_conf "" "options of the semantic tokenizer, k=v separated by spaces"
  option semantic_tag "" "name of its directories; empty: its name and its options that are no paths"
  option deduplicate true "the models see equal units in a row as one"
  option mix "" "further corpora to train on, NAME=DIR each, separated by spaces: token directories of the same tokenizers"
  option mix_name "own" "NAME of this recipe's own corpus in the mixture"
  option mix_temperature 2 "1 keeps every utterance once; more repeats the small corpora"
  option mix_language "" "NAME=LANGUAGE of corpora whose utterances have none, separated by spaces; mix_name: also when decoding"
  option train_config conf/train_gpst.yaml "training configuration, in the recipe or in the repository's root"
  option tts_config conf/train_text_to_semantic.yaml "training configuration of the text-to-semantic model"
  option tts_args "" "further options of codec_lm_train for the text-to-semantic model"
  option stacking 1 "frame stacking factors S; one model each"
  option max_parallel_train 2 "trainings that run side by side, one thread each; only with ngpu 0"
  option decodings local_ar "decoding strategies"
  option inference_config "" "decoding configuration of all modes; empty: conf/decode_gpst.yaml"
  option inference_args "" "further options of gpst_inference"
  option modes "${known_modes[*]}" "what to decode; speaker_conversion is speaker_transfer with prompts of other speakers"
  option prompt_sec 3 "most seconds of the utterance that is the prompt"
  option continuation_sec 3 "seconds of the utterance itself that mode continuation is given; shorter utterances are skipped"
  option silence_sec 0.1 "seconds of silence between a prompt and what follows it"
  option num_unconditional 20 "utterances to make in mode unconditional"
}

check_options() {
  local value
  check_shared_options
  resolve_conf semantic_conf 'model_name_or_path|codebook'
  resolve_conf mix '[^=]+'
  for value in ${modes}; do
    [[ " ${known_modes[*]} " == *" ${value} "* ]] || usage_error "--modes must be among ${known_modes[*]}, got '${value}'"
  done
  for value in modes semantic mix_name; do
    [[ -n ${!value// /} ]] || usage_error "--${value} must not be empty"
  done
  [[ -z ${mix_language} || -n ${mix} ]] || usage_error "--mix_language must be left out without --mix, got '${mix_language}'"
  for value in ${mix_language}; do
    [[ ${value} == ?*=?* ]] || usage_error "--mix_language must be NAME=LANGUAGE separated by spaces, got '${value}'"
  done
  for value in ${mix}; do
    [[ ${value} == ?*=?* ]] || usage_error "--mix must be NAME=DIR separated by spaces, got '${value}'"
  done
  for value in prompt_sec continuation_sec silence_sec mix_temperature; do
    [[ ${!value} =~ ^[0-9]+([.][0-9]+)?$ ]] || usage_error "--${value} must be a number, got '${!value}'"
  done
  [[ ${num_unconditional} =~ ^[1-9][0-9]*$ ]] || usage_error "--num_unconditional must be a number of at least 1, got '${num_unconditional}'"
}

check_tokenizers() {
  check_codec
  check_semantic
}

has_mode() { [[ " ${modes} " == *" $1 "* ]]; }

decode_config() { conf_path "${inference_config:-conf/decode_gpst.yaml}"; }

# before the first stage: a misspelt strategy should not be found after the training
check_decodings() {
  local strategy
  require_conf inference_config "$(decode_config)"
  [[ -z ${inference_config} ]] || return 0
  for strategy in ${decodings}; do
    [[ -f $(conf_path "conf/decode_${strategy}.yaml") ]] ||
      usage_error "--decodings must be strategies with a conf/decode_<strategy>.yaml each, got '${strategy}'"
  done
}

set_names() {
  local name tts_name value mixture=""
  name=$(conf_name "${train_config}") tts_name=$(conf_name "${tts_config}")
  train_config=$(conf_path "${train_config}") tts_config=$(conf_path "${tts_config}")
  set_shared_names
  [[ -n ${semantic_tag} ]] || semantic_tag=${semantic}$(short_name "$(without_paths "${semantic_conf}")")$([[ ${deduplicate} == true ]] || printf '_repeated')
  semantic_dir=${dumpdir}/semantic_${semantic_tag}
  token_dir=${dumpdir}/gpst_${codec_tag}_${semantic_tag}
  train_dir=${token_dir}/${train_set}
  valid_dir=${token_dir}/${valid_set}
  own_language=""
  for value in ${mix_language}; do
    [[ ${value%%=*} != "${mix_name}" ]] || own_language=${value#*=}
  done
  if [[ -n ${mix} ]]; then
    for value in ${mix}; do mixture+=" ${value%%=*}"; done
    mixture=_mix$(short_name "${mix_temperature}${mixture}")
    train_dir=${token_dir}/${train_set}${mixture}
    [[ -z ${own_language} ]] || valid_dir=${token_dir}/${valid_set}${mixture}
  fi
  stats_dir=${expdir}/gpst_stats_${codec_tag}_${semantic_tag}${mixture}
  tts_stats_dir=${expdir}/text_to_semantic_stats_${semantic_tag}_${token_name}
  tts_dir=${expdir}/${tts_name}_${semantic_tag}_${token_name}$(short_name "${tts_args//--/}")
  tag=${tag:-${name}_${codec_tag}_${semantic_tag}${mixture}$(short_name "${train_args//--/}")}
}

model_dir() { printf '%s/gpst_%s_s%d\n' "${expdir}" "${tag}" "$1"; }

# decode_dir STACKING MODE STRATEGY
decode_dir() { printf '%s/decode_%s_%s%s\n' "$(model_dir "$1")" "$2" "$3" "${inference_tag:+_${inference_tag}}"; }

summary() {
  show speech "${expdir}/gpst_${tag}_s*/decode_*/*/wav" "${expdir}/gpst_${tag}_s*/decode_*/*/wav/"
  show figures "${expdir}/scoring/*/figures" "${expdir}/scoring/*/figures/"
  show results "${expdir}/RESULTS.md"
}

run_recipe "$@"
