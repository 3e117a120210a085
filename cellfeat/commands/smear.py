"""`cellfeat smear`: whole photographs to a differential count."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellfeat import completion
from cellfeat.commands.options import (
    Abstain,
    Coverage,
    Device,
    Labelled,
    Offline,
    Precision,
    Raw,
    Refit,
    SkipBad,
    Source,
)


def smear(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", help="Photographs, folders of them, or a CSV path,patient")
    ],
    run: Annotated[Path, typer.Option("--run", help="Run folder that classifies the cells")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write")],
    segmenter: Annotated[
        str | None,
        typer.Option(
            "--segmenter",
            autocompletion=completion.segmenters,
            help="What finds the cells; default: cell-detector, or classical where that is not installed",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="segmenter.KEY=VALUE",
            autocompletion=completion.parameters,
            help="Of what finds the cells, as in segmenter.threshold=0.5",
        ),
    ] = None,
    cell_size: Annotated[
        float | None,
        typer.Option("--cell-size", help="Diameter of a typical white cell in the photographs, px; default: estimated"),
    ] = None,
    um_per_px: Annotated[
        float | None, typer.Option("--um-per-px", help="Or: micrometres of a pixel (a neutrophil has 13.5)")
    ] = None,
    cell_share: Annotated[
        float | None,
        typer.Option(
            "--cell-share", help="A cell's diameter as share of a training image's side; default: as the run knows it"
        ),
    ] = None,
    detector_record: Annotated[
        str | None,
        typer.Option(
            "--detector-record",
            metavar="CELLS,FOUND,WRONG",
            help="Known cells, those found, wrong boxes, on smears of your own; default: the segmenter's record",
        ),
    ] = None,
    patient: Annotated[str | None, typer.Option(help="All photographs are of this patient")] = None,
    patient_from: Annotated[
        str | None,
        typer.Option(
            "--patient-from", metavar="REGEX", help="The patient in a path, by its first bracket, as in '(P[0-9]+)_'"
        ),
    ] = None,
    domain: Annotated[str, typer.Option(help="Name of the laboratory that the photographs come from")] = "new",
    source: Source = None,
    refit: Refit = False,
    labelled: Labelled = None,
    before: Annotated[
        Path | None, typer.Option(help="Folder of an earlier count of these photographs: say what changed")
    ] = None,
    abstain: Abstain = None,
    coverage: Coverage = None,
    raw: Raw = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    skip_bad: SkipBad = False,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as JSON")] = False,
) -> None:
    """Differential counts of smear photographs, with intervals, pictures and a table of the cells.

    Patients: --patient, --patient-from or a CSV say them; else the folders below a folder that is named, or, where
    several folders are named, these too. Any other photograph counts as a patient of its own. A research tool, not a
    medical device.
    """
    from shlex import quote

    from cellfeat import differential_text
    from cellfeat.console import say
    from cellfeat.showing import show, show_json
    from cellfeat.smear import Asked, smear
    from cellfeat.smear_folder import PICTURES, SHEETS
    from cellfeat.smear_photographs import listed
    from cellfeat.verdicts import Wanted
    from cellfeat.workplace import Workplace

    asked = Asked(
        segmenter=segmenter,
        params=sets or (),
        record=None if detector_record is None else differential_text.parsed_record(detector_record),
        cell_size=cell_size,
        um_per_px=um_per_px,
        cell_share=cell_share,
        domain=domain,
        source=source,
        refit=refit,
        labelled=labelled,
        before=before,
        wanted=Wanted(abstain, coverage, raw),
    )
    work = Workplace.on_terminal(device, precision, skip_bad)
    made = smear(run, listed(images, patient, patient_from), out, asked, work)
    if as_json:
        show_json(made.as_dict())
    else:
        for table in made.tables():
            show(table)
    say(f"{out}: cells.csv has every cell; pictures of the photographs are in {PICTURES}/, of each class in {SHEETS}/")
    say(f"Look through them: cellfeat review {quote(str(out))}")
