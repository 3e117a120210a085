"""From whole smear photographs to a differential count: cells found, cut out at a run's scale, classified, counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat import datasets, differential_text, placing, provenance, recipe, smear_folder, smear_notes, smear_output
from cellfeat.artifacts import atomic_folder
from cellfeat.changes import Changes
from cellfeat.detecting import detectors
from cellfeat.differential import Count, differential
from cellfeat.errors import CellfeatError
from cellfeat.fitted_pipelines import Opened, pipeline_folder
from cellfeat.known_files import KnownFiles
from cellfeat.labelled_targets import LabelledTargets
from cellfeat.manifest import domain_problem, refuse_existing
from cellfeat.novelty import CutOut, Reference
from cellfeat.slots import DetectorRecord
from cellfeat.smear_changes import Earlier
from cellfeat.smear_detection import OPTIONS, Found, Scale, find_cells
from cellfeat.smear_folder import FoundCell
from cellfeat.smear_photographs import Photographs
from cellfeat.smear_scales import Estimate, estimated
from cellfeat.store import cache_folder
from cellfeat.types import UNLABELED
from cellfeat.verdicts import AS_EVER, Verdicts, Wanted, judged

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.workplace import Workplace

PREFERRED = ("cell-detector", "classical")  # segmenters that are taken where none is named, the first that is there
SEED = 0  # of the intervals' draws
FORMAT = 1  # of the folder
SKIPPED = "skipped.csv"  # photographs that were left out


@dataclass(frozen=True)
class Asked:
    """How to find, scale and classify cells; as the options of `cellfeat smear` say.

    segmenter: None takes the best that is installed; params: its own, as `--set` has them. record: of the user's own
    counting, instead of the segmenter's. cell_size: px; um_per_px: µm; cell_share: of a training image's side, None as
    the run knows it. labelled: a manifest of labelled cells to fit again with. before: the folder of an earlier count
    of the same photographs, or its `cells.csv`, to tell what changed.
    """

    segmenter: str | None = None
    params: Sequence[str] = ()
    record: DetectorRecord | None = None
    cell_size: float | None = None
    um_per_px: float | None = None
    cell_share: float | None = None
    domain: str = "new"
    source: str | None = None
    refit: bool = False
    labelled: Path | None = None
    before: Path | None = None
    wanted: Wanted = AS_EVER


@dataclass(frozen=True)
class Smear:
    """A differential count that was written. counts: of every patient and, where there are several, of all together.
    moved: what changed since an earlier one."""

    folder: Path
    counts: tuple[Count, ...]
    found: tuple[Found, ...]
    record: DetectorRecord | None
    untaught: tuple[str, ...] = ()
    moved: Changes | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values: what `differential.json` holds."""
        photographs = {"photographs": len(self.found), "not_taught": list(self.untaught)}
        changed = {} if self.moved is None else {"changes": self.moved.as_dict()}
        return photographs | differential_text.summary(self.counts, self.record) | changed

    def tables(self) -> Iterator[Table]:
        """To be shown."""
        yield from differential_text.tables(self.counts)
        if self.moved is not None:
            yield self.moved.table()


@dataclass(frozen=True)
class _Detector:
    """A segmenter that finds cells, under its name, and what is said of it."""

    name: str
    made: Any
    params: Mapping[str, Any]
    record: DetectorRecord | None
    about: Mapping[str, Any]


def smear(run: Path, photographs: Photographs, out: Path, asked: Asked, work: Workplace) -> Smear:
    """Write a folder with the differential count of photographs, as `smear_folder` describes it.

    Raises: CellfeatError for what cannot be read or does not fit together, where no cell is found, and where `out`
    exists; nothing is then left under that name.
    """
    refuse_existing(out)
    if problem := domain_problem(asked.domain) or ("" if asked.domain.strip() else "it is empty"):
        raise CellfeatError(f"--domain: {problem}; give the laboratory of these photographs a name")
    earlier = None if asked.before is None else Earlier.read(asked.before)
    saved = pipeline_folder(run, asked.source)
    asked.wanted.check(saved)
    scale = Scale.of(asked.cell_size, asked.um_per_px, _share(saved, asked.cell_share))
    detector = _detector(asked, work)
    progress, known = work.reporter.progress, KnownFiles(cache_folder() / "files.sqlite")
    photographs = photographs.looked_into(work.skip_bad, progress, known)
    for one in photographs.skipped:
        work.reporter.note(f"left out: {one.reason}")
    if earlier is not None:
        earlier.check(photographs.fields)
    opened, shown = _ready(saved, asked, work)
    with atomic_folder(out) as folder:
        found = _found(photographs, detector, scale, folder, work)
        cells = sorted((cell for one in found for cell in one.cells), key=lambda cell: cell.id)
        dataset = _dataset(cells, asked.domain, folder)
        opened, pipeline, encoded, given = placing.answering(opened, shown, dataset, asked.refit, work)
        verdicts = judged(opened, pipeline, dataset, encoded, asked.wanted, given, _cut_out(cells))
        untaught = tuple(pipeline.untaught)
        counts = _counts(photographs.patients, cells, verdicts, untaught, detector.record)
        moved = None if earlier is None else earlier.changes(photographs.fields, cells, verdicts.labels())
        made = Smear(out, tuple(counts), tuple(found), detector.record, untaught, moved)
        about = _about(run, saved, asked, detector, scale, photographs) | {"calibrated": verdicts.calibrated}
        for key, told in (("prior", verdicts.prior), ("held", verdicts.held)):
            about[key] = told and dict(zip(verdicts.classes, told, strict=True))
        about |= {"classes": list(pipeline.classes), "recipe": pipeline.recipe.as_dict()}
        smear_output.write(folder, found, cells, verdicts, about, work.reporter.progress)
        smear_folder.write_counts(folder, counts, made.as_dict())
        if photographs.skipped:
            datasets.write_skipped(folder / SKIPPED, photographs.skipped)
    _tell(made, photographs.rule, detector, verdicts, about["calibrated"], work)
    return made


def _share(saved: Path, given: float | None) -> float:
    """A typical cell's share of the side of the images that a pipeline was trained on."""
    if given is not None:
        return given
    reference = Reference.read(saved)
    if reference is None or reference.cell_share is None:
        raise CellfeatError(
            f"{saved} does not know how large the cells were in its training images (they had no masks); say it: "
            "--cell-share SHARE, the diameter of a typical cell as a share of such an image's side, as in 0.5"
        )
    return reference.cell_share


def _ready(saved: Path, asked: Asked, work: Workplace) -> tuple[Opened, LabelledTargets | None]:
    """The saved pipeline, which can answer for these cells or be fitted again: known before cells are looked for."""
    opened, shown = placing.ready(saved, [asked.domain], asked.refit, work, asked.labelled)
    if asked.refit or shown is not None:
        opened.source_cells(work)  # they are there, and as they were
    return opened, shown


def _detector(asked: Asked, work: Workplace) -> _Detector:
    able = detectors(work.registry)
    name = asked.segmenter or next((one for one in (*PREFERRED, *able) if one in able), None)
    if name is None:
        raise CellfeatError("no segmenter that finds cells in whole photographs is installed (one with `detect`)")
    section: dict[str, Any] = {"segmenter": {"name": name}}
    recipe.assign(section, asked.params, ("segmenter",))
    offer = work.registry.find("segmenter", name)
    params = offer.resolve({key: value for key, value in section["segmenter"].items() if key != "name"})
    made = offer.create(params, work.context(SEED, "smear"))
    if not hasattr(made, "detect"):
        raise CellfeatError(
            f"the segmenter {name!r} finds no cells in whole photographs (it has no `detect`); those that do: "
            f"{', '.join(able) or 'none is installed'}"
        )
    record = asked.record or getattr(made, "detections", None)
    about: dict[str, Any] = {
        "name": offer.name,
        "distribution": offer.distribution,
        "version": offer.version,
        "parameters": params,
    }
    about |= {"weights_sha256": getattr(made, "weights_sha256", None), "record": record and record._asdict()}
    return _Detector(name, made, params, record, about)


def _found(photographs: Photographs, detector: _Detector, scale: Scale, folder: Path, work: Workplace) -> list[Found]:
    """Every photograph's cells, in the order of the photographs."""
    found, fields = [], photographs.fields
    guesses = [Estimate(None)] * len(fields)
    if scale.diameter is None:
        with work.reporter.progress(len(fields), "how large cells are") as bar:
            guesses = estimated(fields, bar.advance)
    with work.reporter.progress(len(fields), f"{detector.name}: finding cells") as bar:
        for one, guess in zip(fields, guesses, strict=True):
            found.append(find_cells(one, detector.made, detector.name, scale, guess, folder, work.skip_bad))
            bar.advance(1)
    if all(one.problem for one in found):
        raise CellfeatError(f"{found[0].photograph.said}: {found[0].problem}")
    if not any(one.cells for one in found):
        sizes = [one.diameter for one in found if one.diameter]
        assumed = f" (a typical one was taken to measure {np.median(sizes):.0f} px)" if sizes else ""
        raise CellfeatError(
            f"{detector.name} finds no white cell in {smear_notes.photographs(len(found))}{assumed}; if the scale is "
            f"wrong, {OPTIONS}, or try another --segmenter"
        )
    return found


def _dataset(cells: Sequence[FoundCell], domain: str, folder: Path) -> datasets.Dataset:
    """The crops, in the order of their ids, as cells to be classified; a patient's belong together."""
    made = datasets.Dataset(
        id=np.array([cell.id for cell in cells], dtype=str),
        path=tuple(folder / cell.crop for cell in cells),
        domain=np.full(len(cells), domain),
        label=np.full(len(cells), UNLABELED, dtype=np.int64),
        classes=(),
        group=np.array([cell.patient for cell in cells], dtype=str),
        source="cells of smear photographs",
    )
    return datasets.check_images(made)  # the folder's name is gone after the run: nothing is worth remembering of it


def _cut_out(cells: Sequence[FoundCell]) -> CutOut:
    alone = np.array([not (cell.touching or cell.cut) for cell in cells], bool)
    return CutOut(alone, np.array([cell.field for cell in cells], dtype=str))


def _counts(
    patients: Sequence[str],
    cells: Sequence[FoundCell],
    verdicts: Verdicts,
    untaught: Sequence[str],
    record: DetectorRecord | None,
) -> list[Count]:
    whose = np.array([cell.patient for cell in cells], dtype=str)
    classified = (verdicts.chosen, verdicts.proba, verdicts.answered, verdicts.classes)
    return differential(patients, whose, *classified, untaught, record, SEED, verdicts.prior, verdicts.held)


def _about(
    run: Path, saved: Path, asked: Asked, detector: _Detector, scale: Scale, photographs: Photographs
) -> dict[str, Any]:
    """Where the numbers come from."""
    fields = [
        {"field": one.name, "path": one.said, "patient": one.patient, "sha256": one.sha256}
        for one in photographs.fields
    ]
    return {
        "format": FORMAT,
        "run": str(run),
        "source": saved.name,
        "domain": asked.domain,
        "refit": asked.refit,
        "labelled": asked.labelled and str(asked.labelled),
        "abstain": asked.wanted.abstain,
        "coverage": asked.wanted.coverage,
        "detector": dict(detector.about),
        "cell_diameter": scale.diameter,
        "cell_share": scale.share,
        "patients": photographs.rule,
        "photographs": fields,
        "seed": SEED,
        "versions": provenance.versions(),
    }


def _tell(made: Smear, rule: str, detector: _Detector, verdicts: Verdicts, calibrated: bool, work: Workplace) -> None:
    """What a reader of the table should know first."""
    note = work.reporter.note
    for one in (
        *smear_notes.of_photographs(made.found, rule),
        *smear_notes.of_cells(made.found, verdicts),
        *smear_notes.of_changes(made.moved),
        differential_text.said_of_detector(made.counts, made.record, detector.name),
    ):
        note(one)
    if verdicts.prior is None:
        note(differential_text.NO_PRIOR)
    if said := differential_text.said_of_outside(made.counts):
        note(said)
    if not calibrated:
        note("the probabilities are the method's own, not calibrated: intervals rest on how sure it says it is")
    if made.untaught:
        note(f"not taught, so never answered: {', '.join(made.untaught)} (no cell of the training data is one)")
    for remark in verdicts.novelty.remarks if verdicts.novelty else ():
        note(remark)
