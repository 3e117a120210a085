"""Whole smear photographs: the command `smear`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfeat.api.working import Sets, assignments, workplace

if TYPE_CHECKING:
    from cellfeat.smear import Smear


def smear(
    images: str | Path | Sequence[str | Path],
    run: str | Path,
    out: str | Path,
    *,
    segmenter: str | None = None,
    sets: Sets = (),
    cell_size: float | None = None,
    um_per_px: float | None = None,
    cell_share: float | None = None,
    detector_record: tuple[int, int, int] | None = None,
    patient: str | None = None,
    patient_from: str | None = None,
    domain: str = "new",
    source: str | None = None,
    refit: bool = False,
    labelled: str | Path | None = None,
    before: str | Path | None = None,
    abstain: float | None = None,
    coverage: float | None = None,
    raw: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    skip_bad: bool = False,
    verbose: bool = False,
) -> Smear:
    """Write the differential count of smear photographs into a folder; gives the counts with their intervals.

    images: photographs, folders of them, or one CSV `path,patient`. sets: {"segmenter.KEY": value}. cell_size: px of a
    typical white cell's diameter; um_per_px: µm instead; None for both estimates it. detector_record: known cells,
    those of them that were found, boxes that were none. labelled: a manifest of labelled cells to fit
    again with. before: folder of an earlier count. The others as of `cellfeat smear`.

    Raises: CellfeatError for what cannot be read or does not fit together, where no cell is found or `out` exists.
    """
    from cellfeat import smear as smears
    from cellfeat.differential import checked_record
    from cellfeat.differential_text import OWN
    from cellfeat.smear_photographs import listed
    from cellfeat.verdicts import Wanted

    asked = smears.Asked(
        segmenter=segmenter,
        params=assignments(sets),
        record=None if detector_record is None else checked_record(*detector_record, OWN),
        cell_size=cell_size,
        um_per_px=um_per_px,
        cell_share=cell_share,
        domain=domain,
        source=source,
        refit=refit,
        labelled=None if labelled is None else Path(labelled),
        before=None if before is None else Path(before),
        wanted=Wanted(abstain, coverage, raw),
    )
    named = [images] if isinstance(images, (str, Path)) else list(images)
    photographs = listed([Path(one) for one in named], patient, patient_from)
    return smears.smear(Path(run), photographs, Path(out), asked, workplace(verbose, device, precision, skip_bad))
