# The ten stages of a codec language model, as functions stage_<name>. To be sourced by codec_lm.sh, whose options and names of
# directories they use; stages.sh runs their jobs.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # codec_lm.sh declares the options, and stages.sh calls the stages by name

stage_data() {
  local options=() value file tables=()
  for value in ${corpus_option} ${corpus_path}; do
    [[ -z ${!value} ]] || options+=("--${value}" "${!value}")
  done
  for value in ${corpus_path}; do
    for file in "${!value}"/*.tsv; do # test lists and the like, which the user may change
      [[ -z ${!value} || ! -f ${file} ]] || tables+=("${file}")
    done
  done
  [[ -z ${size} ]] || options+=(--size "${size}")
  words value "${local_data_opts}"
  job "${size:-corpus}" "${datadir}" local/data.sh "${tables[@]}" -- \
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
  local name options=()
  # the other cleaners leave something of every transcript
  [[ ${cleaner} != english ]] || options=(--cleaner "${cleaner}")
  for name in "${sets[@]}"; do
    require_file "${dumpdir}/raw/${name}/wav.scp" format
    job "${name}" "${dumpdir}/filtered/${name}" "${dumpdir}/raw/${name}" -- "${python}" "${shared}/filter_data.py" \
      --in "${dumpdir}/raw/${name}" --out "${dumpdir}/filtered/${name}" \
      --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}" "${options[@]}"
  done
}

# codec_options: the options that name a codec, for codec_fit
codec_options() {
  local value values
  words values "${codec_conf}"
  codec_args=(--codec "${codec}")
  for value in "${values[@]}"; do codec_args+=(--codec_conf "${value}"); done
}

stage_codec() {
  local value file values codec_args files=()
  require_file "${dumpdir}/filtered/${train_set}/wav.scp" filter
  codec_options
  words values "${codec_conf}"
  for value in "${values[@]}"; do
    # weights that change under the same name make another codec
    for file in "${value#*=}" "${value#*=}"/{config.*,*.safetensors,*.bin,*.best.pth}; do
      [[ ! -f ${file} ]] || files+=("${file}")
    done
  done
  job "${codec}" "${codec_dir}" "${dumpdir}/filtered/${train_set}" "${files[@]}" -- "${python}" -m espnet_ext.bin.codec_fit \
    "${codec_args[@]}" --wav_scp "${dumpdir}/filtered/${train_set}/wav.scp" --out "${codec_dir}"
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
  [[ ${token_type} != bpe ]] || options+=(--bpemodel "${token_list%/*}/bpe.model" --vocab_size "${nbpe}" --train_bpe)
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
