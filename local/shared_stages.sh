# The stages that all recipes have, from audio and text to codes and a token list, and what the others share: how a training
# starts, the codec's own speech, scoring. To be sourced by recipe.sh, whose options and names of directories they use.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154,SC2317,SC2329 # recipe.sh declares the options, and stages.sh calls the stages by name

stage_data() { prepare_corpus; }

prepare_corpus() {
  local options=() value inputs=() values named
  for value in ${corpus_option} ${corpus_path}; do
    [[ -z ${!value} ]] || options+=("--${value}" "${!value}")
  done
  for value in ${corpus_path}; do # metadata, test lists and the like, which the user may change
    [[ -z ${!value} ]] || inputs+=("${!value}")
  done
  [[ -z ${size} ]] || options+=(--size "${size}")
  [[ ${force} == false ]] || ! grep -q '^option force ' local/data.sh || options+=(--force true)
  words values "${local_data_opts}"
  # shellcheck disable=SC2016 # names with variables in them are no files
  words named "$(sed '/^ *#/d' local/data.sh | tr -c 'A-Za-z0-9._/${}-' ' ')"
  named_inputs "${values[@]}" "${named[@]}"
  job "${size:-corpus}" "${datadir}" local "${inputs[@]}" -- \
    bash local/data.sh --python "${python}" --datadir "${datadir}" "${options[@]}" "${values[@]}"
}

# named_inputs WORD...: adds to `inputs` what may be files or directories of a corpus: no programs, nothing that a recipe makes
named_inputs() {
  local word
  for word in "$@"; do
    case ${word} in
      -* | . | .. | / | *.sh | *.py | local | local/* | conf | conf/* | downloads | downloads/*) ;;
      "${datadir}" | "${datadir}"/* | "${dumpdir}" | "${dumpdir}"/* | "${expdir}" | "${expdir}"/*) ;;
      *) [[ ! -e ${word} || ${word} -ef ${shared} || ( -f ${word} && -x ${word} ) ]] || inputs+=("${word}") ;;
    esac
  done
}

stage_format() {
  local name options=()
  [[ ${reuse_audio} == false ]] || options=(--reuse)
  for name in "${sets[@]}"; do
    require_file "${datadir}/${name}/wav.scp" data
    job "${name}" "${dumpdir}/raw/${name}" "${datadir}/${name}" "${datadir}/${name}/wav.scp" -- \
      "${python}" "${shared}/format_wav.py" \
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

# files_of CONF: `files`, which options k=v name; weights that change under the same name make another codec
files_of() {
  local value file values
  words values "$1"
  files=()
  for value in "${values[@]}"; do
    for file in "${value#*=}" "${value#*=}"/{config.*,*.safetensors,*.bin,*.best.pth,*.tflite}; do
      [[ ! -f ${file} ]] || files+=("${file}")
    done
  done
}

stage_codec() {
  local codec_args files
  require_file "${dumpdir}/filtered/${train_set}/wav.scp" filter
  if [[ -n ${init_from-} ]]; then
    job "${codec}" "${codec_dir}" "${init_from}/codec" -- "${python}" "${shared}/from_experiment.py" --exp "${init_from}" \
      --codec_out "${codec_dir}"
    return
  fi
  codec_options
  files_of "${codec_conf}"
  job "${codec}" "${codec_dir}" "${dumpdir}/filtered/${train_set}/wav.scp" "${files[@]}" -- \
    "${python}" -m espnet_ext.bin.codec_fit \
    "${codec_args[@]}" --wav_scp "${dumpdir}/filtered/${train_set}/wav.scp" --out "${codec_dir}" "${forced[@]}"
}

stage_codec_tokens() {
  local name options=()
  [[ ${prompt_min_sec} == 0 ]] || options=(--prompt_min_sec "${prompt_min_sec}")
  [[ ${gpu_inference} == false ]] || options+=(--device cuda)
  local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # it runs nj processes
  require_file "${codec_dir}/codec_info.yaml" codec
  for name in "${sets[@]}"; do
    require_file "${dumpdir}/filtered/${name}/wav.scp" filter
    job "${name}" "${codec_dir}/${name}" "${codec_dir}" "${dumpdir}/filtered/${name}" "${dumpdir}/filtered/${name}/wav.scp" -- \
      "${python}" -m espnet_ext.bin.codec_tokens --codec_info "${codec_dir}/codec_info.yaml" \
      --data_dir "${dumpdir}/filtered/${name}" --out "${codec_dir}/${name}" "${workers[@]}" --nj "${nj}" --prompt_seed 0 \
      "${options[@]}"
  done
}

# make_token_list: the text tokens of the training set
make_token_list() {
  local options
  require_file "${codec_dir}/${train_set}/text" codec_tokens
  words options "--token_type ${token_type} --cleaner ${cleaner}"
  [[ ${g2p} == none ]] || options+=(--g2p "${g2p}")
  (( min_count == 1 )) || options+=(--min_count "${min_count}")
  [[ ${token_type} != bpe ]] || options+=(--bpemodel "${token_list%/*}/bpe.model" --vocab_size "${nbpe}" --train_bpe)
  job "${token_name}" "${token_list%/*}" "${codec_dir}/${train_set}/text" -- "${python}" -m espnet_ext.bin.token_list \
    --text "${codec_dir}/${train_set}/text" "${options[@]}" --out "${token_list}"
}

# for_training FUNCTION: calls it so that its jobs continue what was interrupted, and run side by side on a CPU
for_training() {
  resumable=true quiet=true
  if (( ngpu == 0 )); then
    max_jobs=${max_parallel_train}
    if (( max_jobs > 1 )); then local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; fi
  fi
  "$@"
}

# free_gb: memory that nobody uses
free_gb() { awk '/^MemAvailable:/ { print int($2 / 1024 / 1024) }' /proc/meminfo; }

# train_python ARGUMENTS...: Python as --launcher starts it on --num_nodes machines, whose directories are shared; a
# function, because where a model is trained does not change it and is no part of what `job` compares
train_python() {
  local launch meeting=()
  words launch "${launcher}"
  if (( num_nodes > 1 )); then
    meeting=(--dist_launcher slurm --dist_init_method "file://$(cd "${output}" && pwd)/.meeting${RANDOM}")
    (( ngpu > 0 )) || meeting+=(--dist_backend gloo)
  fi
  # on a CPU a kernel is made for every shape of a batch; to keep them all saves a fifth of the time and takes about 3 GB
  if (( ngpu == 0 && $(free_gb) >= 6 * max_parallel_train )); then
    export ONEDNN_PRIMITIVE_CACHE_CAPACITY=${ONEDNN_PRIMITIVE_CACHE_CAPACITY:-16384}
  fi
  exec "${launch[@]}" "${python}" "$@" "${meeting[@]}"
}

# model_files MODEL [WORD...]: sets `files` to what decoding reads of a model; weights that a WORD names instead of the average
# of the best epochs are among them
model_files() {
  local name
  files=("$1/config.yaml" "$1"/*.ave.pth)
  for name in "${@:2}"; do [[ ! -f $1/${name} ]] || files+=("$1/${name}"); done
}

# resynthesize_all: the codec's own speech for every test set, in one process
resynthesize_all() {
  local name
  for name in "${tests[@]}"; do resynthesize "${name}"; done
  run_parts resynthesis "${python}" -m espnet_ext.bin.codec_resynthesis
}

# resynthesize SET: the codec's own speech, and the controls of the scores: its frames in random order, and noise as loud
resynthesize() {
  local what extra
  for what in resynthesis shuffled noise; do
    case ${what} in
      shuffled) extra=(--shuffle_frames 0) ;;
      noise) extra=(--noise 0) ;;
      *) extra=() ;;
    esac
    part "${what}.$1" "${expdir}/${what}/$1" "${codec_dir}" "${codec_dir}/$1" -- \
      "${python}" -m espnet_ext.bin.codec_resynthesis --codec_info "${codec_dir}/codec_info.yaml" \
      --data_dir "${codec_dir}/$1" --out "${expdir}/${what}/$1" "${workers[@]}" "${extra[@]}"
  done
}

# check_words: says before the training which words the recogniser of the scores will not hear
check_words() {
  local name more texts=()
  in_range train && in_range score || return 0
  for name in "${tests[@]}"; do
    [[ ! -s ${datadir}/${name}/text ]] || texts+=("${datadir}/${name}/text")
  done
  words more "${score_args}"
  (( ${#texts[@]} == 0 )) || interruptible "${python}" "${shared}/check_words.py" "${texts[@]}" "${more[@]}"
}

stage_score() { score_all; }

score_all() {
  local name pages=() transcribed=()
  for name in "${tests[@]}"; do
    if [[ -f ${codec_dir}/${name}/codes.scp && ! -f ${codec_dir}/${name}/text ]]; then
      log "  ${name} has no text: it is not scored"
    else
      transcribed+=("${name}")
    fi
  done
  (( ${#transcribed[@]} > 0 )) || return 0
  if [[ ${asr_vocabulary} == train && -f ${codec_dir}/${train_set}/codes.scp && ! -f ${codec_dir}/${train_set}/text ]]; then
    die "--asr_vocabulary must be test, as ${codec_dir}/${train_set} has no text, got train" 2
  fi
  local tests=("${transcribed[@]}")
  max_jobs=$((nj < ${#tests[@]} ? nj : ${#tests[@]}))
  local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # many small matrices: threads would only wait for each other
  for name in "${tests[@]}"; do
    score "${name}"
    pages+=("${expdir}/scoring/${name}/scores.json")
  done
  wait_for_jobs
  max_jobs=1
  job results "${expdir}/scoring" "${pages[@]}" -- "${python}" -m espnet_ext.bin.results \
    "${pages[@]}" --out "${expdir}/RESULTS.md"
}

# score SET: every system's speech for it; the sourcing script's reference_dir and add_systems say which and against what
score() {
  local reference name more vocabulary=() systems inputs
  reference=$(reference_dir "$1")
  systems=(--system "original=${reference}") inputs=("${codec_dir}" "${reference}" "${reference}/wav.scp")
  for name in resynthesis shuffled noise; do add_system "${name}" "${expdir}/${name}/$1"; done
  add_systems "$1"
  words more "${score_args}"
  [[ ${asr_vocabulary} == test ]] || vocabulary=(--vocabulary_text "${codec_dir}/${train_set}/text")
  job "$1" "${expdir}/scoring/$1" "${inputs[@]}" "${vocabulary[@]:1}" -- "${python}" -m espnet_ext.bin.evaluate \
    --codec_info "${codec_dir}/codec_info.yaml" --reference "${reference}" "${systems[@]}" \
    "${vocabulary[@]}" \
    --output_dir "${expdir}/scoring/$1" "${workers[@]}" --nj "$((nj / max_jobs))" "${more[@]}"
}

# add_system NAME DIRECTORY [OPTION]: to the systems and inputs of `score`; OPTION: --untranscribed for speech without a text,
# --repeat for one more output of a system that was added before
add_system() {
  require_file "$2/wav.scp" inference
  systems+=("${3:---system}" "$1=$2")
  inputs+=("$2" "$2/wav.scp" "$2/whole/wav.scp")
}
