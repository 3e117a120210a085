#!/usr/bin/env bash
# Every figure of calibration, sets and abstaining in docs/trust.md:  bash benchmarks/trust.sh MANIFEST OUT
# MANIFEST has the domains acevedo20, tecom and bccd. OUT must not exist.
set -euo pipefail
manifest=$1 out=$2 here=$(dirname "$0")
mkdir "$out"
python "$here/some_cells.py" "$manifest" --most 2100 --out "$out/cells.csv"
for align in none per-domain-z; do
  for clf in svm-linear lr rf; do
    cellfeat run --data "$out/cells.csv" --labels five-class --backbone lora-sam --align "$align" --clf "$clf" \
      --no-pictures --out "$out/$align-$clf" >"$out/$align-$clf.txt" 2>"$out/$align-$clf.log"
  done
done
python "$here/trust.py" "$out"/*-*/ --json "$out/trust.jsonl" --picture "$out/all.png" | tee "$out/trust.txt"
python "$here/trust.py" "$out/none-lr" --picture "$out/trust.png" >"$out/none-lr-alone.txt"
python "$here/trust.py" "$out"/*-*/ --labelled 100 --json "$out/labelled.jsonl" | tee "$out/labelled.txt"
