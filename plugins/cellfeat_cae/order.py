"""Which cells make up the batches of an epoch: shuffled as published, or with the same share of every domain."""

from __future__ import annotations

import numpy as np

from cellfeat import CellfeatError


def epoch_batches(domain: np.ndarray, batch_size: int, balanced: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """The (B,) rows of every batch of one epoch; domain: (N,) int, numbers from 0.

    Shuffled: every cell once, the last batch may be short. Balanced: as many batches, each with an equal number of
    every domain's cells (to one, where the domains do not divide the batch); a small domain's cells come repeatedly,
    each time in another order, and of a large one's cells some wait for a later epoch. The domains stand in turn, so
    that parts of a batch are balanced too.
    """
    steps = -(-len(domain) // batch_size)
    if not balanced:
        order = rng.permutation(len(domain))
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    quotas = [len(part) for part in np.array_split(np.arange(batch_size), domain.max() + 1)]
    streams = [_stream(np.flatnonzero(domain == number), steps * quota, rng) for number, quota in enumerate(quotas)]
    in_turn = np.argsort(np.concatenate([np.arange(quota) for quota in quotas]), kind="stable")
    return [
        np.concatenate(
            [stream[step * quota : (step + 1) * quota] for stream, quota in zip(streams, quotas, strict=True)]
        )[in_turn]
        for step in range(steps)
    ]


def _stream(rows: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` of the rows: permutation after permutation."""
    rounds = -(-length // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:length]


def check_balanced(name: str, domains: list[str], batch_size: int, accumulate: int = 1, least: int = 1) -> None:
    if batch_size // accumulate < least * len(domains):
        share = "cells" if least == 1 else f"{least} cells"
        parts = f", in {accumulate} parts," if accumulate > 1 else ""
        raise CellfeatError(
            f"align {name!r}: a balanced batch has {share} of every domain, but batch_size is {batch_size}{parts} and "
            f"there are {len(domains)} domains ({', '.join(domains)}); set align.batch_size to at least "
            f"{accumulate * least * len(domains)}"
        )


def parts_of(batches: list[np.ndarray], accumulate: int) -> list[np.ndarray]:
    """The rows of every part that a batch is computed in, but empty ones."""
    return [part for rows in batches for part in np.array_split(rows, accumulate) if len(part)]


def missing_from(batches: list[np.ndarray], domain: np.ndarray, domains: int, least: int = 1) -> np.ndarray:
    """(domains,) share of the batches in which a domain has fewer than `least` cells."""
    absent = [np.bincount(domain[rows], minlength=domains) < least for rows in batches]
    return np.mean(absent, axis=0)
