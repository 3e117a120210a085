"""What comes of answers and photographs: folders of `cellfeat smear` and their files, predictions, reviews."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellfeat import artifact_texts, reference_files, review_journal, smear_folder
from cellfeat.artifact_texts import Artifact, counted, quoted
from cellfeat.confidence import CONFIDENCE, Confidence
from cellfeat.corrections import NOT_A_CELL, PREFIX, REVIEWED, UNSURE
from cellfeat.decode import IMAGE_SUFFIXES
from cellfeat.errors import CellfeatError
from cellfeat.smear_folder import ABOUT, CELLS, COUNT_COLUMNS, CROPS, FLAGS, PICTURES, SHEETS
from cellfeat.spreadsheets import unprotected

Rows = Sequence[Mapping[str, str]]
KNOWN = ("field", "x1", "y1", "x2", "y2", "label", *FLAGS)  # of cells that were drawn, as `data demo --smears` leaves
FIELDS = {"field", "patient", "path", "cells", "diameter", "scale"}
INSIDE = {
    CROPS: "cells of a differential count as they were classified",
    PICTURES: "photographs of a differential count with their cells marked",
    SHEETS: "thumbnails of a differential count by class",
}
SHARE = "cell's share of an image's side"
TABLE = "reviewed.csv"  # of a review, in the folder of a smear
SUFFIXES = ("-reviewed.csv", "-review.jsonl")  # beside a table of `cellfeat predict`


def folder(path: Path) -> Artifact | None:
    """A folder of `cellfeat smear`, or a folder of pictures in one."""
    if (path / ABOUT).is_file():
        return _smear(path)
    path = path if path.name else path.absolute()
    above = path.parent
    for name, home in ((path.name, above), (above.name if above.name == CROPS else "", above.parent)):
        if name in INSIDE and (home / ABOUT).is_file():
            images = sum(one.suffix.lower() in IMAGE_SUFFIXES for one in path.rglob("*"))
            return Artifact(INSIDE[name], {"images": images}, (f"cellfeat info {quoted(home)}",))
    return None


def _smear(path: Path) -> Artifact:
    """Raises: CellfeatError where the folder is damaged."""
    about, rows = smear_folder.about(path), smear_folder.read_cells(path)
    photographs = about.get("photographs") or []
    facts: dict[str, Any] = {"photographs": len(photographs)}
    facts["patients"] = len({str(one.get("patient")) for one in photographs if isinstance(one, dict)})
    facts |= _predicted(rows)
    detector = about.get("detector")
    facts["found by"] = detector.get("name") if isinstance(detector, dict) else None
    facts |= {name: about.get(name) for name in ("run", "source", "domain")}
    reviewed = path / TABLE
    if reviewed.is_file():
        facts["reviewed"] = _reviewed(artifact_texts.read_table(reviewed)[1])
    again = (_correct(path),) if _any_answer(facts.get("reviewed", {})) else ()
    return Artifact("differential count of `cellfeat smear`", facts, (f"cellfeat review {quoted(path)}", *again))


def table(path: Path) -> Artifact | None:
    """A .csv: of answers, counts or photographs; or any that `artifact_texts` knows."""
    header, rows = artifact_texts.read_table(path)
    if {"id", "path", "label", "probability"} <= set(header):
        return _answers(path, header, rows)
    if tuple(header) == COUNT_COLUMNS:
        named = zip(_column(rows, "patient"), _column(rows, "n"), strict=True)
        cells = {name or "(all)": int(number) for name, number in named if number.isdecimal()}
        facts: dict[str, Any] = {"cells": cells, "classes": list(dict.fromkeys(_column(rows, "class")))}
        return Artifact("differential count: shares of the classes by patient", facts, _home(path))
    if set(header) >= FIELDS:
        number = sum(int(one) for one in _column(rows, "cells") if one.isdecimal())
        facts = {"photographs": len(rows), "cells": number, "scale": counted(rows, "scale")}
        if without := sum(map(bool, _column(rows, "problem"))):
            facts["not searched"] = without
        return Artifact("photographs of a differential count", facts, _home(path))
    if tuple(header) == KNOWN:
        facts = {"cells": len(rows), "photographs": len(set(_column(rows, "field"))), "labels": counted(rows, "label")}
        count = f"cellfeat smear {quoted(path.parent)} --run RUN -o counted"
        return Artifact("known cells of drawn photographs, of `cellfeat data demo --smears`", facts, (count,))
    return artifact_texts.table(path, header, rows)


def _column(rows: Rows, name: str) -> list[str]:
    """Texts of a column, names as they were before `spreadsheets.plain`; "" where a line is too short."""
    return [unprotected(row.get(name, "").strip()) for row in rows]


def _answers(path: Path, header: Sequence[str], rows: Rows) -> Artifact:
    """What `predict` or `smear` answered, reviewed or not."""
    of_smear = {"patient", "field", "crop"} <= set(header)
    facts = {"images" if key == "cells" and not of_smear else key: one for key, one in _predicted(rows).items()}
    facts["classes"] = [name.removeprefix(PREFIX) for name in header if name.startswith(PREFIX)]
    maker = "`cellfeat smear`" if of_smear else "`cellfeat predict`"
    if REVIEWED not in header:
        inside = of_smear and path.name == CELLS and (path.parent / ABOUT).is_file()
        reviews = (f"cellfeat review {quoted(path.parent if inside else path)}",)
        return Artifact(f"{'cells' if of_smear else 'predictions'} of {maker}", facts, reviews)
    facts["reviewed"] = _reviewed(rows)
    done = (_correct(path),) if _any_answer(facts["reviewed"]) else ()
    return Artifact(f"reviewed answers of {maker}", facts, (*done, *_review_of(path)))


def _predicted(rows: Rows) -> dict[str, Any]:
    """How many cells, by class, and with which marks."""
    facts: dict[str, Any] = {"cells": len(rows)}
    labels = Counter(name or "(not answered)" for name in _column(rows, "label"))
    facts["predicted"] = dict(sorted(labels.items()))
    marks = {name: sum(row.get(name) == "yes" for row in rows) for name in ("novel", *FLAGS)}
    return facts | {name: count for name, count in marks.items() if count}


def _reviewed(rows: Rows) -> dict[str, int]:
    """How many cells a reviewer accepted, corrected, and called otherwise."""
    said: Counter[str] = Counter()
    for row in rows:
        answer = unprotected((row.get(REVIEWED) or "").strip())
        label = unprotected((row.get("label") or row.get("best_label") or "").strip())
        plain = {"": "not looked at", NOT_A_CELL: NOT_A_CELL, UNSURE: UNSURE}.get(answer)
        said[plain or ("accepted" if answer == label else "corrected")] += 1
    return dict(said)


def _any_answer(reviewed: Mapping[str, int]) -> bool:
    return any(reviewed.get(name) for name in ("accepted", "corrected"))


def _correct(path: Path) -> str:
    return f"cellfeat data correct {quoted(path)} -o corrected.csv"


def _review_of(path: Path) -> tuple[str, ...]:
    """The command that goes on with the review which wrote a file, where its table is there."""
    if path.name in (TABLE, "review.jsonl"):
        return (f"cellfeat review {quoted(path.parent)}",) if (path.parent / CELLS).is_file() else ()
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            reviewed = path.with_name(f"{path.name.removesuffix(suffix)}.csv")
            return (f"cellfeat review {quoted(reviewed)}",) if reviewed.is_file() else ()
    return ()


def _home(path: Path) -> tuple[str, ...]:
    """The command that says more, for a file in the folder of a smear."""
    return (f"cellfeat info {quoted(path.parent)}",) if (path.parent / ABOUT).is_file() else ()


def lines(path: Path) -> Artifact | None:
    """A .jsonl: the journal of a review, or any that `artifact_texts` knows."""
    with path.open("rb") as file:
        first, steps = _object(file.readline()), [_object(line) for line in file]
    if first is None or first.get("journal") != review_journal.KIND:
        return artifact_texts.lines(path)
    # A last line that a kill cut short was never confirmed: it is no object, and no step.
    made = [one["cells"] for one in steps if one is not None and isinstance(one.get("cells"), list)]
    answers = {one["id"]: one.get("after") for cells in made for one in cells if isinstance(one, dict) and "id" in one}
    facts = {"cells": first.get("cells"), "steps": len(made), "reviewed": sum(map(bool, answers.values()))}
    return Artifact("journal of a review", facts, _review_of(path))


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def json_file(path: Path) -> Artifact | None:
    """A .json that stands in a folder of a smear, or beside a pipeline."""
    look = _JSON.get(path.name.removeprefix("reviewed-"))
    return None if look is None else look(path)


def _counts(path: Path) -> Artifact:
    found = _read(path)
    try:
        patients = {str(one["patient"]): int(one["cells"]) for one in found["patients"]}
        whole = found["all"] or found["patients"][0]
        shares = {name: one["share"] for name, one in whole["classes"].items()}
        told = {name: f"{100 * share:.1f} %" for name, share in shares.items() if share is not None}
        facts = {"cells": int(found["cells"]), "patients": patients, "shares": told}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CellfeatError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    return Artifact("differential count: shares of the classes by patient", facts, _home(path))


def _provenance(path: Path) -> Artifact:
    found = _smear(path.parent)
    return found._replace(kind="what a differential count was made with")


def _confidence(path: Path) -> Artifact:
    found = Confidence.read(path.parent)
    facts = {} if found is None else {"classes": list(found.classes), "calibration": found.said}
    return Artifact("how far a pipeline's probabilities can be trusted", facts, _pipeline(path))


def reference(path: Path) -> Artifact:
    """Either of the two files of a pipeline's reference."""
    with reference_files.opened(path.parent) as found:
        about = {} if found is None else found[1]
    facts = {"laboratories": about.get("domains"), SHARE: _rounded(about)}
    return Artifact("what the cells look like that a pipeline learnt from", facts, _pipeline(path))


def cell_share(pipeline: Path) -> float | None:
    """The share of an image's side that a cell had in the training images; None where no mask told it."""
    with reference_files.opened(pipeline) as found:
        return None if found is None else _rounded(found[1])


def _rounded(about: Mapping[str, Any]) -> float | None:
    share = about.get("cell_share")
    return round(share, 3) if isinstance(share, float) else None


def _pipeline(path: Path) -> tuple[str, ...]:
    return (f"cellfeat info {quoted(path.parent)}",) if (path.parent / "pipeline.json").is_file() else ()


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CellfeatError(f"{path} is damaged: {error}") from None


_JSON: dict[str, Callable[[Path], Artifact]] = {
    smear_folder.COUNTS_JSON: _counts,
    ABOUT: _provenance,
    CONFIDENCE: _confidence,
    reference_files.ABOUT: reference,
}
