#!/usr/bin/env bash
# The tables of benchmarks/results/speed_*: this machine, beside the peers that are installed (benchmarks/peers/install.sh).
# speed.sh cpu: processor time with one thread, ten to twenty minutes of an idle machine; speed.sh wall: two threads;
# speed.sh cuda: a GPU, about eight minutes. PYTHON names the interpreter; ONLY="espnet peers" makes these tables alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kind=${1:?cpu, wall or cuda}
results=benchmarks/results

measure() {
  local name=$1
  shift
  [[ -z ${ONLY:-} || " $ONLY " == *" $name "* ]] || return 0
  "${PYTHON:-.venv/bin/python}" -m espnet_ext.bin.benchmark "$@" \
    --json "$results/speed_${kind}_$name.jsonl" --table "$results/speed_${kind}_$name.md"
}

# ESPnet's shape: a local transformer as wide as the primary one
espnet=(--local_width 768 --local_layers 1 --local_heads 12 --strategy local_ar)
case $kind in
  cpu)
    every=reference,float32,fp16,int8,float32:native,bf16:native,int8:native
    measure espnet "${espnet[@]}" --top_k 1 --peers espnet --precision $every --at_once 7
    measure espnet_batch8 "${espnet[@]}" --top_k 1 --batch 8 --peers espnet --precision $every --frames 12 --at_once 7
    measure peers --strategy local_ar --peers nemo,moshi,csm --precision $every --at_once 7
    measure musicgen --strategy parallel --peers audiocraft --precision $every --at_once 7
    measure local --strategy local_ar --part local --peers nemo,moshi --precision reference,float32,fp16,float32:native,int8:native
    measure context500 --strategy local_ar --context 500 --frames 3 --rounds 2 --peers nemo --precision fp16,int8:native
    measure strategies --s 1,2,4 --strategy parallel,local_ar,local_maskgit --precision int8:native --frames 32 --at_once 9
    measure batch --strategy local_ar --batch 1,8,16 --precision float32,fp16,int8,float32:native,int8:native --frames 12 --at_once 8
    measure context16 --strategy local_ar --context 16 --frames 12 --precision reference,float32,fp16,int8:native
    measure context1000 --strategy local_ar --context 1000 --frames 12 --rounds 2 --precision reference,float32,fp16,int8:native ;;
  wall)
    two=(--clock wall --num_threads 2)
    measure espnet "${espnet[@]}" "${two[@]}" --top_k 1 --peers espnet --precision reference,float32,fp16,int8,float32:native,int8:native
    measure peers "${two[@]}" --strategy local_ar --peers nemo,moshi,csm --precision reference,float32,fp16,int8,float32:native,int8:native ;;
  cuda)
    gpu=(--device cuda --clock wall --peer_dtype bfloat16 --rounds 3 --frames 64)
    measure espnet "${espnet[@]}" "${gpu[@]}" --top_k 1 --peers espnet --precision reference,bf16,bf16:compile
    measure peers "${gpu[@]}" --strategy local_ar,local_speculative --peers nemo,moshi --precision bf16,bf16:compile
    # random weights draft badly: of local_speculative this is the worst case
    measure local "${gpu[@]}" --part local --strategy local_ar,local_speculative --peers nemo,moshi --precision bf16
    measure batch "${gpu[@]}" --strategy parallel,local_ar,local_maskgit --batch 1,8,32,128 --precision bf16 --at_once 12
    measure stacking "${gpu[@]}" --strategy parallel,local_ar,local_maskgit --s 1,2,4 --precision bf16 --at_once 9 ;;
  *) echo "speed.sh: cpu, wall or cuda, got '$kind'" >&2; exit 1 ;;
esac
