"""What a mask's predicted intersection over union is worth: whether it ranks masks, and flags the bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
import numpy as np

FLAGGED = 0.8  # a predicted IoU below this flags a mask, a true one below it is a bad mask


def predicted(method: Any, cells: Sequence[common.Cell]) -> list[float]:
    """The IoU that a method predicts for its masks; empty for one that predicts none."""
    found: list[float] = []
    for batch in common.batches(cells) if hasattr(method, "encode") else ():
        quality = method.encode(common.tensor([cell.image for cell in batch])).quality
        found += [] if quality is None else quality.float().cpu().tolist()
    return found


def worth(guessed: Sequence[float], true: Sequence[float]) -> dict[str, Any] | None:
    """How far a predicted IoU tells the true one; None without any, or for a rank where nothing can be said."""
    from scipy import stats

    if not len(guessed):
        return None
    guess, bad = np.array(guessed), np.array(true) < FLAGGED
    varies = len(set(guessed)) > 1 and len(set(true)) > 1
    return {
        "spearman": float(stats.spearmanr(guess, true).statistic) if varies else None,
        "mean_error": float(np.mean(guess - np.array(true))),
        "threshold": FLAGGED,
        "flagged": int(np.sum(guess < FLAGGED)),
        "bad": int(bad.sum()),
        "bad_flagged": float(np.mean(guess[bad] < FLAGGED)) if bad.any() else None,
    }


def show(records: Sequence[dict[str, Any]], of: str) -> None:
    """A row for every record with a `quality`; `of` names what beside the segmenter tells records apart."""
    judged = [record for record in records if record["quality"]]
    if not judged:
        return
    headings = (
        "Spearman",
        "predicted - true",
        f"flagged, below {FLAGGED}",
        f"true IoU below {FLAGGED}",
        "flagged of these",
    )
    table = common.new_table("Predicted IoU against the true one", "segmenter", of, *headings, left=2)
    for record in judged:
        found = record["quality"]
        rank = "–" if found["spearman"] is None else f"{found['spearman']:.2f}"
        share = "–" if found["bad_flagged"] is None else f"{100 * found['bad_flagged']:.0f} %"
        row = (rank, f"{found['mean_error']:+.3f}", str(found["flagged"]), str(found["bad"]), share)
        table.add_row(record["segmenter"], record[of], *row)
    common.show(table)
