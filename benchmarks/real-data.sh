#!/usr/bin/env bash
# Every run whose figures stand in docs/real-data.md:  bash benchmarks/real-data.sh MANIFEST OUT
# MANIFEST has the domains acevedo20, tecom and bccd. OUT must not exist.
set -euo pipefail
manifest=$1 out=$2
mkdir "$out"
run() {
  local name=$1 start=$SECONDS
  shift
  cellfeat run --data "$manifest" --labels five-class "$@" --out "$out/$name" >"$out/$name.txt" 2>"$out/$name.log"
  printf '%s: %d s\n' "$name" "$((SECONDS - start))" | tee -a "$out/seconds.txt"
}
small=(--set align.epochs=2 --set align.batch_size=16 --set align.learning_rate=5e-4 --set align.encoder_depth=4
  --set align.decoder_depth=1 --set align.head_width=32)

run cae --source tecom --backbone lora-sam --align cae --clf svm-linear "${small[@]}"
for clf in svm-linear svm-poly svm-rbf lr ann rf xgboost; do
  run "none-$clf" --source tecom --backbone lora-sam --align none --clf "$clf"
done
run per-domain-z --source tecom --backbone lora-sam --align per-domain-z --clf svm-linear
run per-domain-z-heldout --source tecom --backbone lora-sam --align per-domain-z --clf svm-linear --adapt heldout
run colour --source tecom --backbone colour --align none --clf svm-linear
run random-resnext50 --source tecom --backbone resnext50 --align none --clf svm-linear --set backbone.weights=random
short=(--set backbone.weights=cell-tiny --set finetune.epochs=3 --set align.epochs=1 --source tecom)
run recipe-dorl --recipe dorl "${short[@]}"
run recipe-bc-sam --recipe bc-sam "${short[@]}" --set 'dataset.domains=[tecom,bccd]'
run recipe-dorl-fixed --recipe dorl-fixed "${short[@]}" --set 'dataset.domains=[tecom,bccd]'
python "$(dirname "$0")/masks.py" "$manifest" | tee "$out/masks.txt"
