"""What the commands do, as functions: every command of `cellfeat` has one here, named in docs/python.md.

They call what the commands call, and print nothing; `verbose=True` shows notes and progress on stderr. Paths may be
texts. What a command says by exit status 1 is in the answer; a mistake is a `CellfeatError`. Instead of `--offline`:
`CELLFEAT_OFFLINE=1` in the environment.
"""

from __future__ import annotations

from cellfeat.api.bench import (
    bench_compare,
    bench_leaderboard,
    bench_list,
    bench_run,
    bench_submit,
    bench_verify,
)
from cellfeat.api.data import correct, data_info, demo, index, labels, merge, table
from cellfeat.api.files import convert, doctor, info, review
from cellfeat.api.plugins import (
    plugins_check,
    plugins_info,
    plugins_list,
    plugins_new,
    plugins_page,
    plugins_requirements,
)
from cellfeat.api.runs import extract, plan, predict, report, run, transform
from cellfeat.api.sharing import hub_pull, hub_push, onnx
from cellfeat.api.smears import smear
from cellfeat.api.weights import weights_export, weights_fetch, weights_import, weights_list, weights_verify

__all__ = [
    "bench_compare",
    "bench_leaderboard",
    "bench_list",
    "bench_run",
    "bench_submit",
    "bench_verify",
    "convert",
    "correct",
    "data_info",
    "demo",
    "doctor",
    "extract",
    "hub_pull",
    "hub_push",
    "index",
    "info",
    "labels",
    "merge",
    "onnx",
    "plan",
    "plugins_check",
    "plugins_info",
    "plugins_list",
    "plugins_new",
    "plugins_page",
    "plugins_requirements",
    "predict",
    "report",
    "review",
    "run",
    "smear",
    "table",
    "transform",
    "weights_export",
    "weights_fetch",
    "weights_import",
    "weights_list",
    "weights_verify",
]
