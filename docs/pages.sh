#!/usr/bin/env bash
# Makes the pages under docs/ anew, from what is committed:  bash docs/pages.sh
# Those that follow from signatures and checks, methods/ and a part of plugins/conformance.md: python docs/reference.py
# The report is that of the built-in demo, whose laboratories are drawn. Its run folder, without the pipelines, was made by
#   cellfeat run --out docs/report/run && rm -r docs/report/run/pipelines
set -euo pipefail
cd "$(dirname "$0")/.."
submissions=(benchmarks/submissions/*/)
[ -d "${submissions[0]}" ] || submissions=()
cellfeat bench leaderboard benchmarks/results/laboratories "${submissions[@]}" --out docs/leaderboard --title "Three laboratories"
cellfeat report docs/report/run --out docs/report/index.html
python docs/reference.py
