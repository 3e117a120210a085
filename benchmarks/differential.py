"""How often the intervals of a differential count hold a simulated patient's shares, and how wide they are.

python benchmarks/differential.py --json differential.jsonl

A cell has a place that is normal around the centre of its class, and the classifier knows the centres: `distance`
between them makes it as good as wanted. Its probabilities are calibrated on 2,000 cells of a source, by
`Confidence.of`, and used on patients of other shares. It calls `cellfeat.differential.share_intervals`, which is not
public: simulated cells have no photographs that `cellfeat smear` could be given.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import common
import numpy as np
import typer

from cellfeat import Confidence, DetectorRecord
from cellfeat.differential import DRAWS, share_intervals

CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
PATIENT = np.array([0.60, 0.30, 0.06, 0.03, 0.01])  # as in blood
EVEN = (0.2,) * 5
NONE = (0.0,) * 5
SOURCE_CELLS = 2000
RAW = 2.0  # the classifier says p^RAW, too sure, as networks do; the source's temperature mends it


@dataclass(frozen=True)
class Scene:
    """What is simulated. distance: of the classes' centres, in standard deviations by √2. cells: of a patient. source:
    shares of the classes; fitted: those by which the classifier answers. missed: shares that the detector misses, by
    class. false: boxes that are no cells, as a share of the cells; they all look like the rarest class. record: cells
    in the detector's record; 0 for none. sharper: by which power probabilities of the patient's cells are too sure."""

    name: str
    distance: float
    cells: int = 400
    source: tuple[float, ...] = EVEN
    fitted: tuple[float, ...] = EVEN
    missed: tuple[float, ...] = NONE
    false: float = 0.0
    record: int = 0
    abstain: float = 0.0
    sharper: float = 1.0


POOR, FAIR, GOOD = 2.05, 2.95, 3.8  # distances; 80, 94 and 99 % right on even classes
UNEVEN = (0.05, 0.10, 0.15, 0.30, 0.40)
SCENES = (
    *(Scene(f"{right} % right", at, 400) for right, at in ((80, POOR), (94, FAIR), (99, GOOD))),
    *(Scene(f"{right} % right, 10 cells", at, 10) for right, at in ((80, POOR), (99, GOOD))),
    Scene("94 % right, 100 cells", FAIR, 100),
    Scene("80 % right, uneven source", POOR, source=UNEVEN, fitted=UNEVEN),
    Scene("80 % right, uneven source, even weights", POOR, source=UNEVEN),
    Scene("80 % right, abstains below 0.8", POOR, abstain=0.8),
    Scene("99 % right, 3 % missed, 2 % false", GOOD, missed=(0.03,) * 5, false=0.02, record=300),
    Scene("the same, 100 cells", GOOD, 100, missed=(0.03,) * 5, false=0.02, record=300),
    Scene("94 % right, 5 % missed, 5 % false", FAIR, missed=(0.05,) * 5, false=0.05, record=300),
    Scene("80 % of the rarest missed, 2 % false", GOOD, missed=(0, 0, 0, 0, 0.8), false=0.02, record=300),
    Scene("20 % of neutrophils missed, 10 % false", GOOD, 1000, missed=(0.2, 0, 0, 0, 0), false=0.1, record=300),
    Scene("80 % right, and surer than at the source", POOR, sharper=1.5),
)


class Classifier:
    """Probabilities of places, by the classes' centres and the shares that it was fitted with; calibrated."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        labels = rng.choice(len(CLASSES), SOURCE_CELLS, p=scene.source)
        raw, rows = self._raw(labels, rng), np.arange(SOURCE_CELLS)
        self.right = float((raw.argmax(axis=1) == labels).mean())
        self.confidence = Confidence.of(raw, labels, rows % 5, rows, CLASSES, np.ones(len(CLASSES), bool))

    def _raw(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        places = self.scene.distance * np.eye(len(CLASSES))[labels] + rng.normal(size=(len(labels), len(CLASSES)))
        logs = RAW * (self.scene.distance * places + np.log(self.scene.fitted))
        powers = np.exp(logs - logs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def proba(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, K) of new cells of these classes."""
        powers = self.confidence.calibrated(self._raw(labels, rng)) ** self.scene.sharper
        return powers / powers.sum(axis=1, keepdims=True)


def patient(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, DetectorRecord | None]:
    """The class of every box of a patient's photographs, and what the detector had on another such patient."""
    missed = np.array(scene.missed)
    labels = rng.choice(len(CLASSES), scene.cells, p=PATIENT)
    labels = labels[rng.random(len(labels)) >= missed[labels]]
    labels = np.append(labels, np.full(rng.binomial(scene.cells, scene.false), len(CLASSES) - 1))
    if not scene.record:
        return labels, None
    known = rng.choice(len(CLASSES), scene.record, p=PATIENT)
    found = int((rng.random(scene.record) >= missed[known]).sum())
    return labels, DetectorRecord(scene.record, found, int(rng.binomial(scene.record, scene.false)), "simulated smears")


def simulated(scene: Scene, times: int, draws: int = DRAWS, seed: int = common.SEED) -> dict[str, Any]:
    """coverage, width: (K,) share of `times` intervals that hold the patient's, and their mean width. outside: share of
    counts, by class, that the corrected model does not believe. estimate_error, counted_error: (K,) mean absolute
    errors."""
    rng = np.random.default_rng(seed)
    classifier = Classifier(scene, rng)
    prior = np.array(classifier.confidence.prior)
    held = np.array([one.groups for one in classifier.confidence.by_class])
    found = []
    for _ in range(times):
        labels, record = patient(scene, rng)
        proba = classifier.proba(labels, rng)
        answered = proba.max(axis=1) >= scene.abstain
        one = share_intervals(proba, answered, record, rng, draws, prior, held)
        counted = np.bincount(proba[answered].argmax(axis=1), minlength=len(CLASSES)) / max(answered.sum(), 1)
        holds = (one.low <= PATIENT) & (one.high >= PATIENT)
        outside = (counted < one.estimate_low) | (counted > one.estimate_high)
        found.append([holds, one.high - one.low, outside, np.abs(one.estimate - PATIENT), np.abs(counted - PATIENT)])
    coverage, width, outside, estimate, counted = np.swapaxes(np.array(found, float), 0, 1)
    return {
        "right_at_source": classifier.right,
        "coverage": coverage.mean(axis=0).tolist(),
        "width": width.mean(axis=0).tolist(),
        "outside": outside.mean(axis=0).tolist(),
        "estimate_error": estimate.mean(axis=0).tolist(),
        "counted_error": counted.mean(axis=0).tolist(),
    }


def main(
    times: Annotated[int, typer.Option(min=1, help="Patients of each scene")] = 200,
    draws: Annotated[int, typer.Option(min=100, help="Draws of each interval; cellfeat smear has 4000")] = 1000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn")] = common.SEED,
    json: Annotated[Path | None, typer.Option(help="Append a JSON line per scene here")] = None,
) -> None:
    """Coverage and width of 95 % intervals of patients with 60, 30, 6, 3 and 1 % of five classes."""
    records = [asdict(scene) | simulated(scene, times, draws, seed) for scene in SCENES]
    common.append_json(json, "differential", [{"times": times, "draws": draws, "seed": seed} | one for one in records])
    table = common.new_table(
        f"{times} patients each; of the classes of 60, 30, 6, 3, 1 %",
        *("scene", "intervals that hold the share, %", "mean width, points", "error of estimate", "error of count"),
        "not believed, %",
    )
    for one in records:
        table.add_row(
            one["name"],
            " ".join(f"{100 * value:.0f}" for value in one["coverage"]),
            *(" ".join(f"{100 * v:.1f}" for v in one[key]) for key in ("width", "estimate_error", "counted_error")),
            " ".join(f"{100 * value:.0f}" for value in one["outside"]),
        )
    common.show(table)


if __name__ == "__main__":
    common.start(main)
