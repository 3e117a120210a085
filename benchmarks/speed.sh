#!/usr/bin/env bash
# Every figure of docs/speed.md:  bash benchmarks/speed.sh OUT        (OUT must not exist; the machine must be idle)
# About 40 minutes on two cores; the classifiers run on one of five folds here (--folds-run 5 takes an hour).
set -euo pipefail
out=$(realpath -m "$1")
mkdir "$out"
cd "$(dirname "$0")/.."
measure() {
  local name=$1 program=$2
  shift 2
  echo "$name" "$(date +%T)"
  python -m "benchmarks.speed.$program" "$@" --json "$out/results.jsonl" >"$out/$name.txt" 2>"$out/$name.log" || echo "$name failed"
}
measure training training
measure forward forward
measure forward-tiny forward --weights cell-tiny --repeats 15
measure end-to-end end_to_end
measure end-to-end-tiny end_to_end --weights cell-tiny --images 2000 --parts 2
measure scaling scaling
measure leaderboard leaderboard
measure ray ray --images 256 --repeats 3 --weights vit_b-random
measure classifiers classifiers --folds-run 1
measure classifiers-shared classifiers --folds-run 1 --share --classifier svm-linear --classifier svm-poly
python -m benchmarks.speed.table "$out/results.jsonl" --plot "$out/speed.png" >"$out/tables.md"
