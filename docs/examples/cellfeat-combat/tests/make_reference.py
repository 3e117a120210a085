"""Write reference.json: what an independent ComBat gives, neuroCombat 0.2.12 (Fortin et al., NeuroImage 167, 2018).

    python -m venv reference-env && reference-env/bin/pip install neuroCombat==0.2.12 numpy==2.4.6 pandas==2.3.3
    reference-env/bin/python tests/make_reference.py

The cells are drawn with NumPy's generator of seed 7 and rounded to 1/1024, which float32 holds exactly. `settled` is
the same program with the threshold of its iteration lowered from 1e-4 to 1e-12: where both programs come to rest.
"""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path

import numpy as np

COUNTS = {"lab-a": 12, "lab-b": 7, "lab-c": 9}
FEATURES = 6


def draw() -> tuple[np.ndarray, np.ndarray]:
    """(28, 6) float64 and (28,) str: each laboratory with a location and scale of its own in every feature."""
    rng = np.random.default_rng(7)
    domain = np.repeat(list(COUNTS), list(COUNTS.values()))
    cells = rng.normal(size=(len(domain), FEATURES)) * rng.uniform(0.5, 2, FEATURES) + 3 * rng.normal(size=FEATURES)
    for name in COUNTS:
        rows = domain == name
        cells[rows] = cells[rows] * rng.uniform(0.6, 1.7, FEATURES) + rng.normal(size=FEATURES)
    return np.round(cells * 1024) / 1024, domain


def main() -> None:
    import pandas

    vars(np)["int"] = int  # by the name that NumPy had for it when neuroCombat was written
    program = importlib.import_module("neuroCombat.neuroCombat")
    cells, domain = draw()
    batches, found = pandas.DataFrame({"batch": domain}), {}
    published = program.it_sol
    for name, threshold in (("published", 1e-4), ("settled", 1e-12)):
        program.it_sol = functools.partial(published, conv=threshold)
        for reference in (None, "lab-b"):
            given = program.neuroCombat(cells.T, batches, "batch", ref_batch=reference)
            found[name if reference is None else f"{name}, reference {reference}"] = {
                "adjusted": np.round(given["data"].T, 8).tolist(),
                "gamma": np.round(given["estimates"]["gamma.star"], 9).tolist(),
                "delta": np.round(given["estimates"]["delta.star"], 9).tolist(),
            }
    content = {"cells": cells.tolist(), "domain": domain.tolist(), "domains": list(COUNTS), "found": found}
    text = json.dumps(content).replace("], [", "],\n[").replace(', "', ',\n"')
    Path(__file__).with_name("reference.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
