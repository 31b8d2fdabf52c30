# Named stages made of jobs that are skipped when they were finished before from the same input. To be sourced.
#
# The sourcing script defines the array `stages`, one function stage_<name> for each, and the variables expdir, force, python
# and package_root, where espnet_ext lies. A job is one command that makes one directory; the record DIRECTORY/.done holds its
# command line and the contents of what it read, so that other options or another input make it run again.
# shellcheck shell=bash

current_stage=""
failure_told=false
claimed=()        # directories that nobody else may write to until this shell ends
max_jobs=1        # jobs that may run side by side; a stage may raise it
quiet=false       # true: output goes to the log only, with a line of progress now and then; implied by max_jobs > 1
resumable=false   # true: what an interrupted job left is continued, if its options and inputs are still the same
job_number=0      # jobs of the current stage, and how many of them had to run
job_ran=0
running_pids=()
# of a running job by its process; of one of several in a process, by process.number
declare -A job_label=() job_output=() job_log=() job_key=() job_shown=() job_list=()
part_label=() part_output=() part_key=() part_options=() # what the next process is to do

log() { printf '%(%H:%M:%S)T %s\n' -1 "$*"; }

# die MESSAGE [STATUS]: one line on stderr, then exit
die() {
  failure_told=true
  printf 'error: %s\n' "$1" >&2
  exit "${2:-1}"
}

stage_list() {
  local i separator=''
  for i in "${!stages[@]}"; do
    printf '%s%d %s' "${separator}" "$((i + 1))" "${stages[i]}"
    separator=', '
  done
}

# stage_number NAME_OR_NUMBER: prints 1, 2, …; anything else is an error that lists the stages
stage_number() {
  local i
  for i in "${!stages[@]}"; do
    if [[ $1 == "${stages[i]}" || $1 == "$((i + 1))" ]]; then
      printf '%d\n' "$((i + 1))"
      return
    fi
  done
  die "stage must be a number or a name of: $(stage_list); got '$1'" 2
}

# require_file FILE STAGE: FILE is what the named earlier stage makes
require_file() {
  [[ -s $1 ]] || die "stage ${current_stage} needs $1, which is missing or empty: run stage $(stage_number "$2") ($2) first"
}

# require_conf OPTION FILE: FILE is named by the user
require_conf() {
  [[ -f $2 ]] || die "--$1 must be an existing file, got '$2' (looked for in ${PWD})" 2
}

# interruptible COMMAND...: its exit status; bash hears a signal at once while it waits, else only when the command has ended
interruptible() { "$@" & wait "$!"; }

# record [OPTION...] DIRECTORY INPUT... -- COMMAND...: status 0 if COMMAND has made DIRECTORY from the INPUTs; else it writes
# DIRECTORY/.started, prints why if something else was made there, and has status 3; --end: COMMAND has now made it
record() { PYTHONPATH=${package_root} "${python}" -S "${package_root}/espnet_ext/jobs/finished.py" "$@"; }

# is_due DIRECTORY INPUT... -- COMMAND...: whether COMMAND is still to be run; an INPUT is a file, a table *.scp with the files
# that it lists, or a directory with the files directly in it; sets `key` and `command` of the caller
is_due() {
  local reason status=0 options=()
  job_number=$((job_number + 1))
  [[ ${force} == false ]] || options+=(--force)
  [[ ${resumable} == false ]] || options+=(--resumable)
  interruptible record "${options[@]}" "$@" > "${expdir}/.answer" || status=$?
  reason=$(< "${expdir}/.answer")
  (( status == 0 || status == 3 )) || die "stage ${current_stage} cannot tell whether $1 is finished"
  [[ -z ${reason} ]] || log "  ${reason}"
  (( status == 3 )) || return 1
  job_ran=$((job_ran + 1))
  key=$(printf '%q ' "$@")
  while [[ $1 != -- ]]; do shift; done
  command=("${@:2}")
}

# job LABEL DIRECTORY INPUT... -- COMMAND...: runs COMMAND, which makes DIRECTORY from the INPUTs, unless that was done
job() {
  local label=$1 output=$2 key command log_file
  shift
  is_due "$@" || return 0
  log_file=${expdir}/log/${current_stage}.${label}.log
  mkdir -p "${expdir}/log"
  if [[ ${resumable} == true ]]; then log_file=${output}/${current_stage}.log; else : > "${log_file}"; fi
  log "  ${current_stage} ${label}: log in ${log_file}"
  if (( max_jobs > 1 )) || [[ ${quiet} == true ]]; then
    wait_for_jobs "${max_jobs}"
    "${command[@]}" >> "${log_file}" 2>&1 &
    running_pids+=("$!")
    job_label[$!]=${label} job_output[$!]=${output} job_log[$!]=${log_file} job_key[$!]=${key}
  else
    interruptible logged "${log_file}" "${command[@]}" || job_failed "${label}" "${log_file}"
    job_finished "${key}"
  fi
}

# logged FILE COMMAND...: tee stays for what a command says when it is stopped
logged() { "${@:2}" 2>&1 | (trap '' INT TERM HUP && exec tee -a "$1"); }

# part LABEL DIRECTORY INPUT... -- PYTHON -m MODULE OPTION...: a job that `run_parts` runs with others in one process
part() {
  local label=$1 output=$2 key command
  shift
  is_due "$@" || return 0
  part_label+=("${label}") part_output+=("${output}") part_key+=("${key}")
  part_options+=("$(printf '%q ' "${command[@]:3}")")
}

# run_parts LABEL COMMAND...: the parts so far in one process, COMMAND --jobs FILE, with a line of options for each; whenever one
# is made, its number appears in FILE.finished
run_parts() {
  local label=$1 i log_file list
  shift
  (( ${#part_options[@]} > 0 )) || return 0
  mkdir -p "${expdir}/log"
  log_file=${expdir}/log/${current_stage}.${label}.log list=${expdir}/log/${current_stage}.${label}.jobs
  : > "${log_file}"
  rm -f "${list}.finished"
  printf '%s\n' "${part_options[@]}" > "${list}"
  log "  ${current_stage} ${label} (${#part_options[@]}): log in ${log_file}"
  wait_for_jobs "${max_jobs}"
  "$@" --jobs "${list}" >> "${log_file}" 2>&1 &
  running_pids+=("$!")
  job_label[$!]=${label} job_log[$!]=${log_file} job_list[$!]=${list}
  for i in "${!part_options[@]}"; do
    job_label[$!.${i}]=${part_label[i]} job_output[$!.${i}]=${part_output[i]} job_key[$!.${i}]=${part_key[i]}
  done
  part_label=() part_output=() part_key=() part_options=()
}

# finish_parts PID: marks what the process has made since the last time
finish_parts() {
  local number
  [[ -f ${job_list[$1]-}.finished ]] || return 0
  while read -r number; do
    [[ -n ${job_output[$1.${number}]-} ]] || continue
    job_finished "${job_key[$1.${number}]}"
    log "  ${current_stage} ${job_label[$1.${number}]}: done"
    job_output[$1.${number}]=""
  done < "${job_list[$1]}.finished"
}

# unfinished_parts PID: labels of what the process has not made, or its own label
unfinished_parts() {
  local name found=""
  for name in "${!job_output[@]}"; do
    [[ ${name} != "$1".* || -z ${job_output[${name}]} ]] || found+=${found:+, }${job_label[${name}]}
  done
  printf '%s\n' "${found:-${job_label[$1]}}"
}

job_failed() {
  die "stage ${current_stage} (${1}) failed, see $(cd "$(dirname "$2")" && pwd)/$(basename "$2")"
}

# job_finished KEY: what the job began with is what its directory is made from; it is on the disk when this returns
job_finished() {
  eval "record --end $1"
}

# reap_jobs: waits a moment, then collects the jobs that ended; the first failure ends the run
reap_jobs() {
  local pid still=()
  sleep 0.1
  for pid in "${running_pids[@]}"; do
    if kill -0 "${pid}" 2> /dev/null; then
      still+=("${pid}")
      finish_parts "${pid}"
      show_progress "${pid}"
    else
      finish_parts "${pid}"
      wait "${pid}" || { tail -n 3 "${job_log[${pid}]}" >&2; job_failed "$(unfinished_parts "${pid}")" "${job_log[${pid}]}"; }
      [[ -z ${job_list[${pid}]-} ]] || continue
      job_finished "${job_key[${pid}]}"
      log "  ${current_stage} ${job_label[${pid}]}: done"
    fi
  done
  running_pids=("${still[@]}")
}

# wait_for_jobs [LIMIT]: returns when fewer than LIMIT jobs run, none without LIMIT
wait_for_jobs() {
  while (( ${#running_pids[@]} >= ${1:-1} )); do reap_jobs; done
}

# show_progress PID: every 15 s the last line of the job's log that tells how far it is
show_progress() {
  local now line
  printf -v now '%(%s)T' -1
  if (( now < ${job_shown[$1]:-now} )); then return; fi
  if [[ -v job_shown[$1] ]]; then
    line=$(tail -c 2000 "${job_log[$1]}" | tr '\r' '\n' | grep -E 'epoch|[0-9]%' | tail -n 1 | sed 's/^.*INFO: //' | cut -c 1-100) || true
    [[ -z ${line} ]] || printf '         %s: %s\n' "${job_label[$1]}" "${line}"
  fi
  job_shown[$1]=$((now + 15))
}

# run_stage NAME: runs stage_NAME and appends how long it took to stage_times.tsv
run_stage() {
  local number started seconds
  number=$(stage_number "$1")
  current_stage=$1 job_number=0 job_ran=0 max_jobs=1 quiet=false resumable=false
  log "stage ${number} (${current_stage})"
  printf -v started '%(%s)T' -1
  "stage_${current_stage}"
  wait_for_jobs
  printf -v seconds '%(%s)T' -1
  seconds=$((seconds - started))
  if (( job_ran == 0 && job_number > 0 )); then
    log "stage ${number} (${current_stage}): finished before, nothing to do (--force runs it again)"
  else
    log "stage ${number} (${current_stage}): ${seconds} s"
    (( job_ran > 0 )) || return 0 # a dry run is not what the stage takes
    mkdir -p "${expdir}"
    printf '%s\t%d\t%(%Y-%m-%dT%H:%M:%S)T\n' "${current_stage}" "${seconds}" -1 >> "${expdir}/stage_times.tsv"
  fi
}

# print_stage_times: the last time that each stage really ran
print_stage_times() {
  [[ -f ${expdir}/stage_times.tsv ]] || return 0
  awk -F '\t' -v names="${stages[*]}" '
    { seconds[$1] = $2; when[$1] = $3 }
    END {
      n = split(names, name, " ")
      for (i = 1; i <= n; i++) if (name[i] in seconds) {
        printf "  %2d %-15s %6d s   (%s)\n", i, name[i], seconds[name[i]], when[name[i]]
        total += seconds[name[i]]
      }
      printf "     %-15s %6d s\n", "together", total
    }' "${expdir}/stage_times.tsv"
}

# claim DIRECTORY...: nobody else may write there until this shell releases it or ends
claim() {
  local reason
  claimed+=("$@") # before the fact: what belongs to others is not released
  reason=$(PYTHONPATH=${package_root} "${python}" -S "${package_root}/espnet_ext/storage/lock.py" "$$" "$@") ||
    die "${reason:-$* cannot be locked}"
}

# release DIRECTORY...: one in which nothing was made goes with its lock
release() {
  local directory pid=""
  for directory in "$@"; do
    [[ ! -f ${directory}/.running ]] || read -r pid _ < "${directory}/.running" || true
    [[ ${pid} == "$$" ]] || continue
    rm -f "${directory}/.running"
    rmdir "${directory}" 2> /dev/null || true
  done
}

# for `trap … EXIT`: stops what still runs, with all that it has started, and names the stage that failed if nobody did
end_of_run() {
  local status=$? pid running
  trap '' INT TERM HUP
  for pid in "${running_pids[@]}"; do [[ -z ${pid} ]] || finish_parts "${pid}"; done
  readarray -t running < <(jobs -pr)
  (( ${#running[@]} == 0 )) ||
    PYTHONPATH=${package_root} "${python}" -S "${package_root}/espnet_ext/jobs/stop.py" "${running[@]}" || true
  rm -f "${expdir}/.answer"
  release "${claimed[@]}"
  if (( status == 129 || status == 130 || status == 143 )); then
    printf 'error: stopped %s; the same command continues there\n' "${current_stage:+in stage }${current_stage:-before the first stage}" >&2
  elif (( status != 0 )) && [[ ${failure_told} == false && -n ${current_stage} ]]; then
    printf 'error: stage %s failed with exit status %d, see %s\n' "${current_stage}" "${status}" "${expdir}/log" >&2
  fi
}
