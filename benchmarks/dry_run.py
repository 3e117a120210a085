"""How far the time that `cellfeat run --dry-run` tells is from the time that encoding then takes.

    python benchmarks/dry_run.py [IMAGES PER CLASS AND LABORATORY]

Encoding is timed as a first `cellfeat extract` less a second one, which finds every image in the cache. Exit status 1
where the estimate is off by more than `FACTOR`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FACTOR = 2.0
UNITS = {"s": 1, "min": 60, "h": 3600}


def cellfeat(*arguments: str | Path) -> tuple[str, float]:
    """Its standard output, and the seconds it took."""
    begun = time.monotonic()
    done = subprocess.run(["cellfeat", *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout, time.monotonic() - begun


def main() -> None:
    per_class = sys.argv[1] if len(sys.argv) > 1 else "24"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["CELLFEAT_CACHE"] = str(folder / "cache")
        cellfeat("data", "demo", folder / "demo", "--per-class", per_class)
        data = folder / "demo" / "manifest.csv"
        told, _ = cellfeat("run", "--data", data, "--align", "none", "--dry-run")
        value, unit = re.search(r"encoding: about (\S+) (s|min|h) ", told).groups()
        estimate = float(value) * UNITS[unit]
        _, first = cellfeat("extract", data, "-o", folder / "first.parquet")
        _, second = cellfeat("extract", data, "-o", folder / "second.parquet")
    real = first - second
    factor = max(estimate / real, real / estimate)
    print(f"estimated {estimate:.0f} s, taken {real:.0f} s: a factor of {factor:.2f}")
    sys.exit(factor > FACTOR)


if __name__ == "__main__":
    main()
