#!/usr/bin/env bash
# A codec language model from audio and text to scores, in ten stages. Called by egs2/<corpus>/codec_lm1/run.sh with the
# corpus's own defaults; every relative path is relative to that recipe's directory. `run.sh --help` lists everything.
# shellcheck disable=SC2034,SC2317,SC2329 # stages.sh reads some options, and calls the stages by name
set -euo pipefail
export LC_ALL=C PYTHONUNBUFFERED=1 TQDM_MININTERVAL="${TQDM_MININTERVAL:-1}"

shared=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
caller_dir=${PWD}
# shellcheck source=parse_options.sh
. "${shared}/parse_options.sh"
# shellcheck source=stages.sh
. "${shared}/stages.sh"

stages=(data format filter codec codec_tokens token_list stats train inference score)

declare_options() {
  option stage 1 "first stage to run, number or name"
  option stop_stage "${#stages[@]}" "last stage to run, number or name"
  option force false "run the stages even if they were finished with the same options"
  option recipe_dir . "directory that holds the recipe's local/, conf/, data and experiments"
  option python "" "Python interpreter; empty: python3 of the active environment, else the repository's .venv"
  option ngpu 0 "GPUs for training, of each machine; 0 trains on the CPU"
  option num_nodes 1 "machines for training; several need --launcher"
  option launcher "" "command that starts the training once on each machine, such as 'srun --nodes=2 --ntasks-per-node=1'"
  option nj 2 "processes of the data stages"
  option inference_nj 2 "decoding jobs that run side by side"
  option dask_scheduler "" "address of a dask cluster, tcp://HOST:PORT, that does the work of nj instead; see docs/cluster.md"
  option max_parallel_train 2 "trainings (one per stacking factor) that run side by side, one thread each; only with ngpu 0"
  option datadir data "Kaldi data directories and the token list"
  option dumpdir dump "formatted audio and codes"
  option expdir exp "statistics, models, speech, scores"
  option train_set train "name of the training set"
  option valid_set dev "name of the validation set"
  option test_sets "test_seen" "names of the sets to decode, separated by spaces"
  option size "" "size of the corpus, as local/data.sh knows it; empty: its default"
  option local_data_opts "" "further options of local/data.sh"
  option corpus_option "" "NAMEs of further options of this recipe, which local/data.sh receives"
  option corpus_path "" "NAMEs of such options that are paths"
  option fs 16000 "sample rate of the codec, Hz"
  option min_wav_duration 0.3 "shorter utterances are skipped, seconds"
  option max_wav_duration 20 "longer utterances are skipped, seconds"
  option reuse_audio false "use audio that has the right format where it is, without a copy"
  option prompt_min_sec 0 "shortest speaker prompt where the speaker has one of this length, seconds"
  option token_type char "text tokens: char, word, bpe or phn"
  option g2p none "what makes phones for --token_type phn: g2p_en, or none for a text of phones"
  option min_count 1 "text tokens seen fewer times become <unk>"
  option nbpe 200 "pieces of the SentencePiece model that bpe trains"
  option cleaner lower "text cleaning: lower, english or none"
  option codec world_vq "codec (registry of espnet_ext.codec)"
  option codec_conf "" "options of the codec, k=v separated by spaces"
  option stacking "1 2" "frame stacking factors S; one model each"
  option train_config conf/train.yaml "training configuration, in the recipe or in the repository's root"
  option max_epoch "" "epochs of training; empty: as the configuration says"
  option train_args "" "further options of codec_lm_train"
  option dry_run false "stop at stage train, and measure there what it will cost instead of training"
  option tag "" "name of the model; empty: from configuration, codec and tokens"
  option decodings "parallel local_ar" "decoding strategies"
  option inference_config "" "decoding configuration of all strategies; empty: conf/decode_<strategy>.yaml of each"
  option gpu_inference false "tokenize and decode on the GPU"
  option inference_args "" "further options of codec_lm_inference"
  option inference_tag "" "added to the name of the decoding directories"
  option asr_vocabulary train "words that the recogniser of the scores knows: train, or test: those of the test set alone"
  option score_args "" "further options of score"
}

usage() {
  local i
  printf 'usage: %s [--name value]...   (dashes and underscores are the same)\n\nstages\n' "${recipe_dir}/run.sh"
  for i in "${!stages[@]}"; do printf '  %2d %s\n' "$((i + 1))" "${stages[i]}"; done
  printf '\noptions [value]\n'
  print_options
}

check_options() {
  local name value
  for name in ngpu num_nodes nj inference_nj max_parallel_train fs nbpe min_count; do
    [[ ${!name} =~ ^[0-9]+$ ]] || usage_error "--${name} must be a whole number, got '${!name}'"
  done
  for name in num_nodes nj inference_nj max_parallel_train fs min_count; do
    (( ${!name} > 0 )) || usage_error "--${name} must be at least 1, got '${!name}'"
  done
  for value in ${stacking}; do
    [[ ${value} =~ ^[1-9][0-9]*$ ]] || usage_error "--stacking must be numbers of at least 1 separated by spaces, got '${stacking}'"
  done
  for name in test_sets decodings stacking codec train_set valid_set; do
    [[ -n ${!name// /} ]] || usage_error "--${name} must not be empty"
  done
  first=$(stage_number "${stage}")
  last=$(stage_number "${stop_stage}")
  (( first <= last )) || usage_error "--stage must not come after --stop_stage, got ${stage} and ${stop_stage}"
  [[ -z ${dask_scheduler} || ${dask_scheduler} =~ ^(tcp|tls)://.+:[0-9]+$ ]] ||
    usage_error "--dask_scheduler must be tcp://HOST:PORT, got '${dask_scheduler}'"
  [[ -z ${max_epoch} || ${max_epoch} =~ ^[1-9][0-9]*$ ]] || usage_error "--max_epoch must be a number of at least 1, got '${max_epoch}'"
  [[ ${prompt_min_sec} =~ ^[0-9]+([.][0-9]+)?$ ]] || usage_error "--prompt_min_sec must be seconds, got '${prompt_min_sec}'"
  [[ ${asr_vocabulary} == train || ${asr_vocabulary} == test ]] || usage_error "--asr_vocabulary must be train or test, got '${asr_vocabulary}'"
  for value in ${corpus_path}; do # a path that exists where the user stands means that path
    [[ ! -e ${caller_dir}/${!value} ]] || [[ -z ${!value} ]] || printf -v "${value}" '%s' "${caller_dir}/${!value}"
  done
  (( num_nodes == 1 )) || [[ -n ${launcher} ]] || usage_error "--launcher must be given with --num_nodes ${num_nodes}"
  if [[ ${dry_run} == true ]] && (( last > $(stage_number train) )); then last=$(stage_number train); fi
  find_python
}

find_python() {
  if [[ -z ${python} ]]; then
    python=python3
    [[ -n ${VIRTUAL_ENV-} || ! -x ${shared}/../.venv/bin/python ]] || python=$(cd "${shared}/.." && pwd)/.venv/bin/python
  elif [[ ${python} == */* && ${python} != /* ]]; then
    python=${caller_dir}/${python}
  fi
  command -v "${python}" > /dev/null || usage_error "--python must be a Python interpreter, got '${python}'"
}

# conf_path FILE: FILE of this recipe, else of the repository's root
conf_path() {
  if [[ ! -f $1 && -f ../../../$1 ]]; then printf '../../../%s\n' "$1"; else printf '%s\n' "$1"; fi
}

# decode_config STRATEGY
decode_config() { conf_path "${inference_config:-conf/decode_$1.yaml}"; }

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

# names of files and directories that several stages use
set_names() {
  local name=${train_config##*/} extra
  sets=("${train_set}" "${valid_set}")
  train_config=$(conf_path "${train_config}")
  read -ra tests <<< "${test_sets}"
  sets+=("${tests[@]}")
  codec_dir=${dumpdir}/codec_${codec}
  token_name=${token_type}$([[ ${g2p} == none ]] || printf '_%s' "${g2p}")
  workers=()
  [[ -z ${dask_scheduler} ]] || workers=(--dask_scheduler "${dask_scheduler}")
  token_list=${datadir}/token_list/${token_name}/tokens.txt
  stats_dir=${expdir}/codec_lm_stats_${codec}_${token_name}
  extra=$(tr -cs 'A-Za-z0-9.=-' '_' <<< "${train_args//--/}")
  tag=${tag:-${name%.*}_${codec}_${token_name}$([[ -z ${train_args} ]] || printf '_%s' "${extra%_}")}
}

model_dir() { printf '%s/codec_lm_%s_s%d\n' "${expdir}" "${tag}" "$1"; }
decode_dir() { printf '%s/decode_%s%s\n' "$(model_dir "$1")" "$2" "${inference_tag:+_${inference_tag}}"; }
words() { read -ra "$1" <<< "$2"; }

stage_data() {
  local options=() value
  for value in ${corpus_option} ${corpus_path}; do
    [[ -z ${!value} ]] || options+=("--${value}" "${!value}")
  done
  [[ -z ${size} ]] || options+=(--size "${size}")
  words value "${local_data_opts}"
  job "${size:-corpus}" "${datadir}" local/data.sh -- \
    bash local/data.sh --python "${python}" --datadir "${datadir}" "${options[@]}" "${value[@]}"
}

stage_format() {
  local name options=()
  [[ ${reuse_audio} == false ]] || options=(--reuse)
  for name in "${sets[@]}"; do
    require_file "${datadir}/${name}/wav.scp" data
    job "${name}" "${dumpdir}/raw/${name}" "${datadir}" -- "${python}" "${shared}/format_wav.py" \
      --in "${datadir}/${name}" --out "${dumpdir}/raw/${name}" --fs "${fs}" "${workers[@]}" --nj "${nj}" "${options[@]}"
  done
}

stage_filter() {
  local name
  for name in "${sets[@]}"; do
    require_file "${dumpdir}/raw/${name}/wav.scp" format
    job "${name}" "${dumpdir}/filtered/${name}" "${dumpdir}/raw/${name}" -- "${python}" "${shared}/filter_data.py" \
      --in "${dumpdir}/raw/${name}" --out "${dumpdir}/filtered/${name}" \
      --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}"
  done
}

stage_codec() {
  local value options=()
  require_file "${dumpdir}/filtered/${train_set}/wav.scp" filter
  for value in ${codec_conf}; do options+=(--codec_conf "${value}"); done
  job "${codec}" "${codec_dir}" "${dumpdir}/filtered/${train_set}" -- "${python}" -m espnet_ext.bin.codec_fit \
    --codec "${codec}" "${options[@]}" --wav_scp "${dumpdir}/filtered/${train_set}/wav.scp" --out "${codec_dir}"
}

stage_codec_tokens() {
  local name options=()
  [[ ${prompt_min_sec} == 0 ]] || options=(--prompt_min_sec "${prompt_min_sec}")
  [[ ${gpu_inference} == false ]] || options+=(--device cuda)
  local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # it runs nj processes
  require_file "${codec_dir}/codec_info.yaml" codec
  for name in "${sets[@]}"; do
    require_file "${dumpdir}/filtered/${name}/wav.scp" filter
    job "${name}" "${codec_dir}/${name}" "${codec_dir}" "${dumpdir}/filtered/${name}" -- \
      "${python}" -m espnet_ext.bin.codec_tokens --codec_info "${codec_dir}/codec_info.yaml" \
      --data_dir "${dumpdir}/filtered/${name}" --out "${codec_dir}/${name}" "${workers[@]}" --nj "${nj}" --prompt_seed 0 \
      "${options[@]}"
  done
}

stage_token_list() {
  local options
  require_file "${codec_dir}/${train_set}/text" codec_tokens
  words options "--token_type ${token_type} --cleaner ${cleaner}"
  [[ ${g2p} == none ]] || options+=(--g2p "${g2p}")
  (( min_count == 1 )) || options+=(--min_count "${min_count}")
  [[ ${token_type} != bpe ]] || options+=(--bpemodel "${token_list%/*}/bpe.model" --vocab_size "${nbpe}")
  job "${token_name}" "${token_list%/*}" "${codec_dir}/${train_set}" -- "${python}" -m espnet_ext.bin.token_list \
    --text "${codec_dir}/${train_set}/text" "${options[@]}" --out "${token_list}"
}

# train_options: the options that collecting statistics and training share
train_options() {
  local part name
  common=(--config "${train_config}" --token_type "${token_type}" --token_list "${token_list}" --cleaner "${cleaner}"
    --codec_info "${codec_dir}/codec_info.yaml")
  [[ ${token_type} != bpe ]] || common+=(--bpemodel "${token_list%/*}/bpe.model")
  [[ ${g2p} == none ]] || common+=(--g2p "${g2p}")
  for part in train valid; do
    name=${part}_set
    common+=(--"${part}_data_path_and_name_and_type" "${codec_dir}/${!name}/text,text,text"
      --"${part}_data_path_and_name_and_type" "${codec_dir}/${!name}/codes.scp,codes,kaldi_ark"
      --"${part}_data_path_and_name_and_type" "${codec_dir}/${!name}/prompt.scp,prompt,kaldi_ark")
  done
  inputs=("${train_config}" "${codec_dir}" "${token_list%/*}" "${codec_dir}/${train_set}" "${codec_dir}/${valid_set}")
}

stage_stats() {
  local common inputs name collected=${stats_dir}/logdir/stats.1
  require_conf train_config "${train_config}"
  require_file "${token_list}" token_list
  for name in "${train_set}" "${valid_set}"; do require_file "${codec_dir}/${name}/codes.scp" codec_tokens; done
  train_options
  quiet=true # ESPnet's log repeats every option
  job collect "${collected}" "${inputs[@]}" -- "${python}" -m espnet_ext.bin.codec_lm_train --collect_stats true \
    "${common[@]}" --train_shape_file "${codec_dir}/${train_set}/utt2num_frames" \
    --valid_shape_file "${codec_dir}/${valid_set}/utt2num_frames" --output_dir "${collected}" --ngpu 0
  wait_for_jobs
  job aggregate "${stats_dir}" "${collected}" -- "${python}" -m espnet2.bin.aggregate_stats_dirs --skip_sum_stats \
    --input_dir "${collected}" --output_dir "${stats_dir}"
}

stage_train() {
  local common inputs factor output more name command
  require_conf train_config "${train_config}"
  for name in train/codes_shape train/text_shape valid/codes_shape valid/text_shape; do
    require_file "${stats_dir}/${name}" stats
  done
  train_options
  words more "${max_epoch:+--max_epoch ${max_epoch}} ${train_args}"
  resumable=true quiet=true
  if (( ngpu == 0 )); then
    max_jobs=${max_parallel_train}
    if (( max_jobs > 1 )); then local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi
  fi
  for factor in ${stacking}; do
    output=$(model_dir "${factor}")
    command=(-m espnet_ext.bin.codec_lm_train
      "${common[@]}" --train_shape_file "${stats_dir}/train/codes_shape" --train_shape_file "${stats_dir}/train/text_shape"
      --valid_shape_file "${stats_dir}/valid/codes_shape" --valid_shape_file "${stats_dir}/valid/text_shape"
      --frame_stacking_factor "${factor}" --output_dir "${output}" --resume true --ngpu "${ngpu}"
      --multiprocessing_distributed true "${more[@]}")
    if [[ ${dry_run} == true ]]; then
      "${python}" "${command[@]}" --dry_run true --output_dir "${output}_dry_run"
    else
      job "s${factor}" "${output}" "${inputs[@]}" "${stats_dir}" -- train_python "${command[@]}"
    fi
  done
}

# train_python ARGUMENTS...: Python as --launcher starts it on --num_nodes machines, whose directories are shared; a
# function, because where a model is trained does not change it and is no part of what `job` compares
train_python() {
  local launch meeting=()
  words launch "${launcher}"
  if (( num_nodes > 1 )); then
    meeting=(--dist_launcher slurm --dist_init_method "file://$(cd "${output}" && pwd)/.meeting${RANDOM}")
    (( ngpu > 0 )) || meeting+=(--dist_backend gloo)
  fi
  exec "${launch[@]}" "${python}" "$@" "${meeting[@]}"
}

stage_inference() {
  local factor strategy name
  max_jobs=${inference_nj}
  if (( max_jobs > 1 )); then local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi
  for factor in ${stacking}; do
    require_file "$(model_dir "${factor}")/config.yaml" train
    for strategy in ${decodings}; do
      for name in "${tests[@]}"; do decode "${factor}" "${strategy}" "${name}"; done
    done
  done
  for name in "${tests[@]}"; do resynthesize "${name}"; done
}

# decode STACKING STRATEGY SET
decode() {
  local model output config more
  config=$(decode_config "$2")
  require_file "${codec_dir}/$3/text" codec_tokens
  words more "${inference_args}"
  [[ ${gpu_inference} == false ]] || more+=(--device cuda)
  model=$(model_dir "$1")
  output=$(decode_dir "$1" "$2")/$3
  job "s$1.$2.$3" "${output}" "${model}" "${config}" "${codec_dir}/$3" -- \
    "${python}" -m espnet_ext.bin.codec_lm_inference --exp "${model}" --data_dir "${codec_dir}/$3" --decoding "$2" \
    --inference_config "${config}" --output_dir "${output}" "${workers[@]}" "${more[@]}"
}

# resynthesize SET: the codec's own speech, and the same with its frames in random order (the control of the scores)
resynthesize() {
  local what extra
  for what in resynthesis shuffled; do
    extra=()
    [[ ${what} == resynthesis ]] || extra=(--shuffle_frames 0)
    job "${what}.$1" "${expdir}/${what}/$1" "${codec_dir}" "${codec_dir}/$1" -- \
      "${python}" -m espnet_ext.bin.codec_resynthesis --codec_info "${codec_dir}/codec_info.yaml" \
      --data_dir "${codec_dir}/$1" --out "${expdir}/${what}/$1" "${workers[@]}" "${extra[@]}"
  done
}

stage_score() {
  local name pages=()
  max_jobs=$((nj < ${#tests[@]} ? nj : ${#tests[@]}))
  local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # many small matrices: threads would only wait for each other
  for name in "${tests[@]}"; do
    score "${name}"
    pages+=("${expdir}/scoring/${name}/scores.json")
  done
  wait_for_jobs
  max_jobs=1
  job results "${expdir}/scoring" "${tests[@]/#/${expdir}/scoring/}" -- "${python}" -m espnet_ext.bin.results \
    "${pages[@]}" --out "${expdir}/RESULTS.md"
}

# score SET: every system's speech for it
score() {
  local factor strategy name more vocabulary=() systems=(--system "original=${codec_dir}/$1") inputs=("${codec_dir}/$1")
  for name in resynthesis shuffled; do add_system "${name}" "${expdir}/${name}/$1"; done
  for factor in ${stacking}; do
    systems+=(--train_dir "$(model_dir "${factor}")")
    for strategy in ${decodings}; do
      add_system "s${factor}_${strategy}" "$(decode_dir "${factor}" "${strategy}")/$1"
    done
  done
  words more "${score_args}"
  [[ ${asr_vocabulary} == test ]] || vocabulary=(--vocabulary_text "${codec_dir}/${train_set}/text")
  [[ ${force} == false ]] || more+=(--force)
  job "$1" "${expdir}/scoring/$1" "${inputs[@]}" -- "${python}" -m espnet_ext.bin.score \
    --codec_info "${codec_dir}/codec_info.yaml" --reference "${codec_dir}/$1" "${systems[@]}" \
    "${vocabulary[@]}" \
    --output_dir "${expdir}/scoring/$1" "${workers[@]}" --nj "$((nj / max_jobs))" "${more[@]}"
}

# add_system NAME DIRECTORY: to the systems and inputs of `score`
add_system() {
  require_file "$2/wav.scp" inference
  systems+=(--system "$1=$2")
  inputs+=("$2")
}

main() {
  local number name
  declare_options
  recipe_dir=$(option_value recipe_dir . "$@")
  for name in $(option_value corpus_option "" "$@") $(option_value corpus_path "" "$@"); do option "${name}" "" "option of this corpus, see local/data.sh"; done
  parse_options "$@"
  cd "${recipe_dir}"
  check_options
  set_names
  number=$(stage_number inference)
  (( first > number || last < number )) || check_decodings
  export PYTHONPATH="${shared%/*}${PYTHONPATH:+:${PYTHONPATH}}"
  trap end_of_run EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  for (( number = first; number <= last; number++ )); do run_stage "${stages[number - 1]}"; done
  summary
  exit # here, so that bash does not read on in a file that was edited meanwhile
}

summary() {
  log "stages $(stage_number "${stage}") to $(stage_number "${stop_stage}") are finished in ${PWD}"
  printf 'times of the stages\n'
  print_stage_times
  if compgen -G "${expdir}/codec_lm_${tag}_s*/decode_*/*/wav" > /dev/null; then
    printf 'speech   %s\n' "${expdir}/codec_lm_${tag}_s*/decode_*/*/wav/"
  fi
  if compgen -G "${expdir}/scoring/*/figures" > /dev/null; then
    printf 'figures  %s\n' "${expdir}/scoring/*/figures/"
  fi
  [[ ! -f ${expdir}/RESULTS.md ]] || printf 'results  %s\n' "${expdir}/RESULTS.md"
}

main "$@"
