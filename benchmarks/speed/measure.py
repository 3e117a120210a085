"""Time, memory and the machine's own limit: what the programs of this folder share.

Ways of doing one thing take turns in one process, so that a busy moment of the machine meets all of them; what counts
is a way's median time over that of the plain way, the one that a user would write without cellfeat.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import common

SETTINGS = re.compile(r"(OMP|MKL|ONEDNN|DNNL|KMP|GOMP|OPENBLAS|TORCH)_")
GEMM_SIDE = 2048  # large enough for every core's full speed, small enough for a moment


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int, warm: bool = True) -> dict[str, list[float]]:
    """{way: seconds of every repeat}; warm: each way runs once before, so that caches and threads are there."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + warm):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn >= warm:
                found[name].append(time.perf_counter() - began)
    return found


def records(
    stage: str, seconds: Mapping[str, Sequence[float]], plain: str, items: int = 1, about: Mapping[str, Any] = {}
) -> list[dict[str, Any]]:
    """A record per way: items a second, and the ratio to the plain way: median, and its range over the repeats."""
    rows = []
    for name, values in seconds.items():
        ratios = [before / after for before, after in zip(seconds[plain], values, strict=True)]
        middle = median(seconds[plain]) / median(values)
        rows.append(
            {
                "stage": stage,
                "way": name,
                "seconds": median(values),
                "items_per_second": items / median(values),
                "ratio": middle,
                "ratio_range": [min(ratios), max(ratios)],
                "repeats": len(values),
                "plain": plain,
                **about,
            }
        )
    return rows


def gemm_peak(dtype: str = "float32", seconds: float = 1.0) -> float:
    """GFLOP/s of this machine's matrix product: the best of torch's default library and oneDNN, over a second each.

    It is the ceiling that shares of the peak refer to; measured in the same process and moment as what is compared.
    """
    import torch

    left, right = (torch.randn(GEMM_SIDE, GEMM_SIDE).to(getattr(torch, dtype)) for _ in range(2))
    best = 0.0
    for precision in ("highest", "medium"):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            left @ right
            ends = time.perf_counter() + seconds
            while time.perf_counter() < ends:
                began = time.perf_counter()
                left @ right
                best = max(best, 2 * GEMM_SIDE**3 / (time.perf_counter() - began) / 1e9)
        finally:
            torch.set_float32_matmul_precision(before)
    return best


def gemm_peaks() -> dict[str, float]:
    """GFLOP/s of both types; to be called before and after what is measured, since other work may disturb either."""
    return {dtype: gemm_peak(dtype) for dtype in ("float32", "bfloat16")}


def counted_flops(call: Callable[[], Any]) -> float:
    """GFLOP of a call by torch's own counter: a product and a sum are two operations."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def settings() -> dict[str, str]:
    """Where the matrix products are computed, and what can change that."""
    import torch

    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    mkldnn = torch.backends.mkldnn
    found = {
        "torch": torch.__version__,
        "BLAS": blas[1] if blas else "unknown",
        "oneDNN": "on" if mkldnn.is_available() and mkldnn.enabled else "off",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "threads": str(torch.get_num_threads()),
    }
    return found | {name: value for name, value in sorted(os.environ.items()) if SETTINGS.match(name)}


def load() -> float | None:
    """Processes that wanted a core over the last minute, this one among them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def finish(title: str, rows: Sequence[Mapping[str, Any]], json: Path | None, benchmark: str) -> None:
    """Print the table of records, with the machine below it, and append them to a file of JSON lines."""
    common.append_json(json, benchmark, [{**row, "load": load(), "settings": settings()} for row in rows])
    table = common.new_table(title, "stage", "way", "items/s", "× plain", "range", "of peak", left=2)
    for row in rows:
        low, high = row["ratio_range"]
        share = f"{100 * row['of_peak']:.0f} %" if row.get("of_peak") is not None else ""
        figures = (f"{row['items_per_second']:.3g}", f"{row['ratio']:.2f}", f"{low:.2f}–{high:.2f}", share)
        table.add_row(row["stage"], row["way"], *figures)
    common.show(table)
    told = {"processor": f"{common.cpu_model()}, {os.cpu_count()} cores", **settings()}
    if load() is not None:
        told["load"] = f"{load():.1f}: other work makes every figure smaller"
    print("\n".join(f"{name}: {value}" for name, value in told.items()))
