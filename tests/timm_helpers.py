"""What the tests of the trained timm networks share."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from cellfeat import UNLABELED, Cells

SHORT = {"epochs": 2, "iterations_per_epoch": 3, "batch_size": 8, "bottleneck": 8}
TINY_IMAGES = {"on": "images", "model": "test_resnet", "weights": "random", "image_size": 32, "batch_size": 4}


def shifted(per_class=12, classes=3, channels=6, seed=0):
    """Labelled source rows and unlabelled target rows, moved and scaled; both sorted by class."""
    rng = np.random.default_rng(seed)
    label = np.tile(np.repeat(np.arange(classes), per_class), 2)
    target = np.repeat([False, True], per_class * classes)
    centres = np.random.default_rng(7).normal(size=(classes, channels)) * 2
    pooled = centres[label] + 0.5 * rng.normal(size=(len(label), channels))
    pooled[target] = pooled[target] * 1.2 + 0.4
    return Cells.from_arrays(
        np.where(target, UNLABELED, label),
        domain=np.where(target, "there", "here"),
        is_target=target,
        pooled=pooled.astype(np.float32),
    )


class Interrupting:
    """A reporter whose bar breaks after so much of the training, as a kill would; remembers what was counted."""

    def __init__(self, after=None):
        self.after, self.counted = after, []

    @contextmanager
    def progress(self, total, text):
        yield self

    def advance(self, n=1):
        self.counted.append(n)
        if self.after is not None and sum(self.counted) > self.after:
            raise KeyboardInterrupt

    def note(self, text):
        pass
