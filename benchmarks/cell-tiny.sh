#!/usr/bin/env bash
# Every figure by which weights of lora-sam are judged:  bash benchmarks/cell-tiny.sh MANIFEST WEIGHTS OUT UNSEEN
# MANIFEST has the domains acevedo20, tecom (with masks) and bccd. WEIGHTS is a name or a file. OUT must not exist.
# UNSEEN names the cells of acevedo20 that the weights never saw, one id to a line (fold_ids.py).
set -euo pipefail
manifest=$1 weights=$2 out=$3 unseen=$4 here=$(dirname "$0")
mkdir "$out"
measure() {
  local name=$1 program=$2
  shift 2
  python "$here/$program" "$@" --json "$out/results.jsonl" >"$out/$name.txt" 2>"$out/$name.log"
  cat "$out/$name.txt"
}
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
python -m benchmarks.speed.forward --weights "$weights" --json "$out/results.jsonl" | tee "$out/speed.txt"
measure masks masks.py "$manifest" --weights "$weights"
measure smears smears.py "$manifest" --weights "$weights" --pictures "$out/smears"
for features in "--passes 1" "--passes 2" "--passes 2 --shape"; do
  name=representation-$(tr -d ' -' <<<"$features")
  measure "$name" representation.py "$manifest" --weights "$weights" --unseen "$unseen" $features
done
measure representation-colour representation.py "$manifest" --backbone colour --unseen "$unseen"
measure few-masks few_masks.py "$manifest" --weights "$weights" --out "$out/few-masks" --epochs 60
