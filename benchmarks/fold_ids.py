"""Ids of the cells that one fold of a run tested on: what a pre-training has to leave out to be judged there.

cellfeat run --data cells.csv --labels dorl-13 --source acevedo20 --backbone colour --align none --clf lr --out folds
python benchmarks/fold_ids.py folds --source acevedo20 --fold 0 > fold-0.txt
cellfeat lora-sam pretrain benchmarks/cell-tiny.yaml --data cells.csv --domain acevedo20 --leave-out fold-0.txt -o NEW

Folds depend on ids, labels, their number and the seed, and on no backbone or classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import common
import typer

from cellfeat import CellfeatError


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a `cellfeat run`")],
    fold: Annotated[int, typer.Option(min=0, help="Number of the fold, from 0")] = 0,
    source: Annotated[str, typer.Option(help="Domain that was divided")] = "acevedo20",
    seed: Annotated[int, typer.Option(help="Seed of the folds, as protocol.seeds")] = common.SEED,
) -> None:
    """Print the ids, one to a line."""
    found = ids(run / "predictions.parquet", source, seed)
    if fold not in found:
        raise CellfeatError(
            f"{run} has no fold {fold} of {source} with seed {seed}; possible folds: {sorted(found) or 'none'}"
        )
    print("\n".join(found[fold]))


def ids(predictions: Path, source: str, seed: int) -> dict[int, list[str]]:
    """The held-out ids of every fold."""
    import pyarrow.parquet as pq

    table = pq.read_table(predictions, columns=["seed", "source", "target", "fold", "id"]).to_pandas()
    inside = table[(table.seed == seed) & (table.source == source) & (table.target == source)]
    return {int(fold): sorted(rows.id) for fold, rows in inside.groupby("fold")}


if __name__ == "__main__":
    common.start(main)
