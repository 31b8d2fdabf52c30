# The stages of GPST that shared_stages.sh does not have. To be sourced by gpst.sh, whose options and names of directories they
# use; stages.sh runs their jobs.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # gpst.sh declares the options, and stages.sh calls the stages by name

# semantic_options: the options that name a semantic tokenizer, for semantic_fit
semantic_options() {
  local value values
  words values "${semantic_conf}"
  semantic_args=(--semantic "${semantic}")
  for value in "${values[@]}"; do semantic_args+=(--semantic_conf "${value}"); done
  semantic_args+=(--deduplicate "${deduplicate}")
}

# before the first stage, as check_codec
check_semantic() {
  local number semantic_args
  number=$(stage_number semantic)
  (( first < number && number <= last )) || return 0
  [[ ! -f ${semantic_dir}/.done ]] || return 0
  semantic_options
  "${python}" -m espnet_ext.bin.semantic_fit "${semantic_args[@]}" --check || exit 1
}

stage_semantic() {
  local semantic_args files options=()
  [[ ${gpu_inference} == false ]] || options=(--device cuda)
  require_file "${dumpdir}/filtered/${train_set}/wav.scp" filter
  semantic_options
  files_of "${semantic_conf}"
  job "${semantic}" "${semantic_dir}" "${dumpdir}/filtered/${train_set}/wav.scp" "${files[@]}" -- \
    "${python}" -m espnet_ext.bin.semantic_fit \
    "${semantic_args[@]}" --wav_scp "${dumpdir}/filtered/${train_set}/wav.scp" --out "${semantic_dir}" --nj "${nj}" \
    "${options[@]}" "${forced[@]}"
}

stage_semantic_tokens() {
  local name options=()
  [[ ${gpu_inference} == false ]] || options+=(--device cuda)
  local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # it runs nj processes
  require_file "${semantic_dir}/semantic_info.yaml" semantic
  for name in "${sets[@]}"; do
    require_file "${codec_dir}/${name}/codes.scp" codec_tokens
    job "${name}" "${token_dir}/${name}" "${semantic_dir}" "${codec_dir}/${name}" "${dumpdir}/filtered/${name}" \
      "${dumpdir}/filtered/${name}/wav.scp" -- \
      "${python}" -m espnet_ext.bin.semantic_tokens --semantic_info "${semantic_dir}/semantic_info.yaml" \
      --data_dir "${dumpdir}/filtered/${name}" --codes_dir "${codec_dir}/${name}" --out "${token_dir}/${name}" \
      "${workers[@]}" --nj "${nj}" "${options[@]}"
  done
}

# the training set and those of --mix as one; without --mix there is nothing to do
stage_mix() {
  local value corpora languages=() directories=()
  [[ -n ${mix} ]] || { log '  no --mix: the training set is used as it is'; return 0; }
  words corpora "${mix}"
  words value "${mix_language}"
  [[ -z ${mix_language} ]] || languages=(--language "${value[@]}")
  require_file "${token_dir}/${train_set}/semantic.scp" semantic_tokens
  for value in "${corpora[@]#*=}"; do
    [[ -f ${value}/semantic.scp ]] || die "--mix must name token directories, found no ${value}/semantic.scp" 2
    directories+=("${value}" "${value}/semantic.scp" "${value}/codes.scp")
  done
  job mix "${train_dir}" "${token_dir}/${train_set}" "${token_dir}/${train_set}/codes.scp" "${directories[@]}" -- "${python}" "${shared}/mix_corpora.py" \
    --corpus "${mix_name}=${token_dir}/${train_set}" "${corpora[@]}" --temperature "${mix_temperature}" "${languages[@]}" \
    --out "${train_dir}"
  [[ ${valid_dir} != "${token_dir}/${valid_set}" ]] || return 0
  require_file "${token_dir}/${valid_set}/semantic.scp" semantic_tokens
  # alone, and therefore as it is, but with its language
  job mix_valid "${valid_dir}" "${token_dir}/${valid_set}" "${token_dir}/${valid_set}/codes.scp" -- "${python}" "${shared}/mix_corpora.py" \
    --corpus "${mix_name}=${token_dir}/${valid_set}" --language "${mix_name}=${own_language}" --out "${valid_dir}"
}

# only the text-to-semantic model reads text
stage_token_list() {
  has_mode tts || { log '  no mode tts: no text is read'; return 0; }
  [[ ! -f ${codec_dir}/${train_set}/codes.scp || -f ${codec_dir}/${train_set}/text ]] ||
    die "--modes must not have tts, as ${codec_dir}/${train_set} has no text, got ${modes}" 2
  make_token_list
}

# gpst_options: the options that collecting statistics and training of GPST share
gpst_options() {
  local part directory file
  common=(--config "${train_config}" --codec_info "${codec_dir}/codec_info.yaml"
    --semantic_info "${semantic_dir}/semantic_info.yaml")
  for part in train valid; do
    directory=${part}_dir
    directory=${!directory}
    # prompts also where join_prompt is 0: only the task knows the configuration, and what is not joined is only read
    common+=(--"${part}_data_path_and_name_and_type" "${directory}/semantic.scp,semantic,kaldi_ark"
      --"${part}_data_path_and_name_and_type" "${directory}/codes.scp,codes,kaldi_ark"
      --"${part}_data_path_and_name_and_type" "${directory}/prompt.scp,prompt,kaldi_ark"
      --"${part}_data_path_and_name_and_type" "${directory}/prompt_semantic.scp,prompt_semantic,kaldi_ark")
    [[ ! -f ${directory}/utt2lang ]] || # without it, no utterance of the part has a language
      common+=(--"${part}_data_path_and_name_and_type" "${directory}/utt2lang,language,text")
  done
  inputs=("${train_config}" "${codec_dir}" "${semantic_dir}"
    {"${train_dir}","${valid_dir}"}/{semantic.scp,codes.scp,prompt.scp,prompt_semantic.scp,utt2lang,utt2num_frames})
}

# tts_options: the same of the text-to-semantic model, to which the units are the codes
tts_options() {
  local part name
  common=(--config "${tts_config}" --token_type "${token_type}" --token_list "${token_list}" --cleaner "${cleaner}"
    --codec_info "${semantic_dir}/semantic_info.yaml")
  [[ ${token_type} != bpe ]] || common+=(--bpemodel "${token_list%/*}/bpe.model")
  [[ ${g2p} == none ]] || common+=(--g2p "${g2p}")
  for part in train valid; do
    name=${part}_set
    common+=(--"${part}_data_path_and_name_and_type" "${token_dir}/${!name}/text,text,text"
      --"${part}_data_path_and_name_and_type" "${token_dir}/${!name}/semantic.scp,codes,kaldi_ark")
  done
  inputs=("${tts_config}" "${semantic_dir}" "${token_list%/*}"
    "${token_dir}"/{"${train_set}","${valid_set}"}/{text,semantic.scp,utt2num_units})
}

stage_stats() {
  local common inputs
  require_conf train_config "${train_config}"
  require_file "${train_dir}/semantic.scp" "$([[ -n ${mix} ]] && printf mix || printf semantic_tokens)"
  require_file "${valid_dir}/semantic.scp" "$([[ ${valid_dir} == "${token_dir}/${valid_set}" ]] && printf semantic_tokens || printf mix)"
  quiet=true # ESPnet's log repeats every option
  gpst_options
  collect_stats gpst "${stats_dir}" "${train_dir}/utt2num_frames" "${valid_dir}/utt2num_frames"
  has_mode tts || return 0
  require_conf tts_config "${tts_config}"
  require_file "${token_list}" token_list
  tts_options
  collect_stats tts "${tts_stats_dir}" "${token_dir}/${train_set}/utt2num_units" "${token_dir}/${valid_set}/utt2num_units"
}

# collect_stats LABEL DIRECTORY TRAIN_SHAPES VALID_SHAPES: the lengths that make batches
collect_stats() {
  local collected=$2/logdir/stats.1
  job "$1.collect" "${collected}" "${inputs[@]}" -- "${python}" -m espnet_ext.bin.codec_lm_train --collect_stats true \
    "${common[@]}" --train_shape_file "$3" --valid_shape_file "$4" --output_dir "${collected}" --ngpu 0
  wait_for_jobs
  job "$1.aggregate" "$2" "${collected}"/{train,valid} -- "${python}" -m espnet2.bin.aggregate_stats_dirs --skip_sum_stats \
    --input_dir "${collected}" --output_dir "$2"
  wait_for_jobs
}

stage_train() { for_training train_gpst; }
stage_train_tts() { for_training train_tts; }

train_gpst() {
  local common inputs factor more
  require_conf train_config "${train_config}"
  gpst_options
  words more "${max_epoch:+--max_epoch ${max_epoch}} ${train_args}"
  for factor in ${stacking}; do
    train_model "s${factor}" "$(model_dir "${factor}")" "${stats_dir}" semantic --frame_stacking_factor "${factor}" "${more[@]}"
  done
  # beside the others, if it comes next anyway
  if in_range train_tts; then train_tts; fi
}

train_tts() {
  local common inputs more
  has_mode tts || return 0
  require_conf tts_config "${tts_config}"
  tts_options
  words more "${max_epoch:+--max_epoch ${max_epoch}} ${tts_args}"
  train_model text_to_semantic "${tts_dir}" "${tts_stats_dir}" text "${more[@]}"
}

# train_model LABEL DIRECTORY STATISTICS INPUT OPTION...: INPUT is what the batches hold besides codes
train_model() {
  local label=$1 output=$2 stats=$3 input=$4 part name command
  shift 4
  command=(-m espnet_ext.bin.codec_lm_train "${common[@]}")
  for part in train valid; do
    for name in codes_shape "${input}_shape"; do
      require_file "${stats}/${part}/${name}" stats
      command+=(--"${part}_shape_file" "${stats}/${part}/${name}")
    done
  done
  command+=(--output_dir "${output}" --resume true --ngpu "${ngpu}" --multiprocessing_distributed true "$@")
  if [[ ${dry_run} == true ]]; then
    interruptible "${python}" "${command[@]}" --dry_run true --output_dir "${output}_dry_run"
  else
    job "${label}" "${output}" "${inputs[@]}" "${stats}"/{train,valid} -- train_python "${command[@]}"
  fi
}

stage_inference() {
  local factor strategy mode name
  max_jobs=${inference_nj}
  if (( max_jobs > 1 )); then local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi
  for factor in ${stacking}; do require_file "$(model_dir "${factor}")/config.yaml" train; done
  if has_mode tts; then require_file "${tts_dir}/config.yaml" train_tts; fi
  for name in "${tests[@]}"; do
    require_file "${token_dir}/${name}/semantic.scp" semantic_tokens
    if has_mode speaker_conversion; then
      job "prompts.${name}" "${expdir}/other_speakers/${name}" "${token_dir}/${name}" -- \
        "${python}" "${shared}/other_speaker_prompts.py" --data_dir "${token_dir}/${name}" --out "${expdir}/other_speakers/${name}"
    fi
  done
  wait_for_jobs
  for factor in ${stacking}; do
    for strategy in ${decodings}; do
      for mode in ${modes}; do decode_mode "${factor}" "${mode}" "${strategy}"; done
    done
  done
  resynthesize_all
}

# decode_mode STACKING MODE STRATEGY: for every test set; what is made of nothing, once
decode_mode() {
  local name prompts options=() files=()
  case $2 in
    unconditional)
      decode "$@" free --mode unconditional --num_utterances "${num_unconditional}"
      return ;;
    semantic_to_acoustic) ;;
    continuation) options=(--prompt_sec "${continuation_sec}") ;;
    *) options=(--prompt_sec "${prompt_sec}" --silence_sec "${silence_sec}") ;;
  esac
  if [[ $2 == tts ]]; then
    options+=(--text_to_semantic "${tts_dir}")
    model_files "${tts_dir}"
  fi
  for name in "${tests[@]}"; do
    prompts=()
    [[ $2 != speaker_conversion ]] || prompts=(--prompts "${expdir}/other_speakers/${name}/utt2prompt")
    decode "$@" "${name}" --mode "${2/speaker_conversion/speaker_transfer}" "${options[@]}" \
      --data_dir "${token_dir}/${name}" "${prompts[@]}"
  done
}

# is_told_languages MODEL: whether its configuration lists any
is_told_languages() { grep -Eq '^ +languages:( *$| *\[ *[^] ])' "$1/config.yaml"; }

# decode STACKING MODE STRATEGY SET OPTION...: `files` are further inputs
decode() {
  local model output config more factor=$1 mode=$2 strategy=$3 name=$4
  local inputs=("${files[@]}") language=() files
  shift 4
  [[ ${mode} == unconditional ]] || inputs+=("${token_dir}/${name}" "${token_dir}/${name}/codes.scp")
  [[ ${mode} != speaker_conversion ]] || inputs+=("${expdir}/other_speakers/${name}")
  config=$(decode_config)
  words more "${inference_args}"
  [[ ${gpu_inference} == false ]] || more+=(--device cuda)
  model=$(model_dir "${factor}")
  # as the training utterances of this corpus; a table of the set's own says it itself, and what is made of nothing has none
  [[ -z ${own_language} || -f ${token_dir}/${name}/utt2lang ]] || ! is_told_languages "${model}" ||
    language=(--language "${own_language}")
  output=$(decode_dir "${factor}" "${mode}" "${strategy}")/${name}
  [[ -n ${inference_tag} ]] || more+=(--keep_config) # what has a tag is tried, and not how the model is to speak
  model_files "${model}" "${more[@]}"
  job "s${factor}.${mode}.${strategy}.${name}" "${output}" "${files[@]}" "${config}" "${inputs[@]}" -- \
    "${python}" -m espnet_ext.bin.gpst_inference --exp "${model}" "$@" --decoding "${strategy}" \
    --inference_config "${config}" --output_dir "${output}" "${language[@]}" "${workers[@]}" "${more[@]}"
}

reference_dir() { printf '%s\n' "${token_dir}/$1"; }

# add_systems SET: what stage inference made for it; the strategy is named where there are several
add_systems() {
  local factor strategy mode name chosen
  words chosen "${decodings}"
  for factor in ${stacking}; do
    systems+=(--train_dir "$(model_dir "${factor}")")
    for mode in ${modes}; do
      for strategy in "${chosen[@]}"; do
        name=s${factor}_${mode}
        (( ${#chosen[@]} == 1 )) || name+=_${strategy}
        if [[ ${mode} == unconditional ]]; then
          add_system "${name}" "$(decode_dir "${factor}" "${mode}" "${strategy}")/free" --untranscribed
        else
          add_system "${name}" "$(decode_dir "${factor}" "${mode}" "${strategy}")/$1"
        fi
      done
    done
  done
  ! has_mode tts || systems+=(--train_dir "${tts_dir}")
}
