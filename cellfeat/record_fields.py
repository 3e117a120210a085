"""What a record and a failure of a results folder must say, field by field: readers take it for granted.

Records come from strangers too. A field that is missing, or is something else, is refused where it is read, by its
name; a table's file by anything but its plain name, since a path could lead out of the folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cellfeat.errors import CellfeatError
from cellfeat.metrics import SCORES

ADAPT = ("none", "test", "heldout")
PRECISIONS = ("float32", "bfloat16", "float16")
TABLE = re.compile(r"predictions/[\w.@+-]+\.parquet")
LARGEST = 2**53  # up to which every whole number is a float too
SHOWN = 80  # characters of a value that is refused


class FieldRule(NamedTuple):
    """What a field must be, in words and as a function."""

    must: str
    holds: Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _flag(value: Any) -> bool:
    return value is True or value is False


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < LARGEST)


def _number_or_null(value: Any) -> bool:
    return value is None or _number(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _map_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _scores(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), dict) and "mean" in value[name] and _number_or_null(value[name]["mean"])
        for name in SCORES
    )


def _matrix(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == len(value) and all(map(_number, row)) for row in value
    )


def _recipe(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("protocol"), dict)


def _dataset(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("digest")) and _text(value.get("manifest"))


def _backbone(value: Any) -> bool:
    if not isinstance(value, dict) or "weights_sha256" not in value:
        return False
    return _flag(value.get("used")) and (value["weights_sha256"] is None or _text(value["weights_sha256"]))


def _encoding(value: Any) -> bool:
    return isinstance(value, dict) and value.get("precision") in PRECISIONS


def _predictions(value: Any) -> bool:
    if not isinstance(value, dict) or not _text(value.get("sha256")) or not _text(value.get("file")):
        return False
    return TABLE.fullmatch(value["file"]) is not None


TEXT, FLAG, COUNT = FieldRule("text", _text), FieldRule("true or false", _flag), FieldRule("a number of things", _count)
COUNTS = FieldRule("a mapping of names to numbers of cells", _map_of(_count))
FIGURES = FieldRule("a mapping of names to numbers, or null where there is none", _map_of(_number_or_null))

RECORD = {
    **dict.fromkeys(("id", "row", "protocol", "classifier", "address", "source", "target"), TEXT),
    "seed": FieldRule("a whole number", lambda value: type(value) is int and abs(value) < LARGEST),
    "held_out_folds": FLAG,
    "adapt": FieldRule(" or ".join(ADAPT), lambda value: isinstance(value, str) and value in ADAPT),
    **dict.fromkeys(("shots", "cells"), COUNT),
    "weights_saw": FieldRule("a list of names, or null", lambda value: value is None or _texts(value)),
    "weights_saw_target": FieldRule("true, false or null", lambda value: value is None or _flag(value)),
    "class_counts": COUNTS,
    "scores": FieldRule(f"for each of {', '.join(SCORES)} a mapping with its mean", _scores),
    "scored_classes": FieldRule("a list of names", _texts),
    **dict.fromkeys(("recall", "calibration", "majority", "ceiling"), FIGURES),
    "classes": FieldRule("a list of different names", lambda value: _texts(value) and len(set(value)) == len(value)),
    "confusion": FieldRule("a square matrix of numbers", _matrix),
    "seconds": FieldRule("a number", _number),
    "peak_memory_mb": FieldRule("a number or null", _number_or_null),
    "recipe": FieldRule("a recipe with its protocol", _recipe),
    "recipe_digest": TEXT,
    "dataset": FieldRule("a mapping with digest and manifest", _dataset),
    "backbone": FieldRule("a mapping with weights_sha256 and used", _backbone),
    "encoding": FieldRule(f"a mapping with a precision of {', '.join(PRECISIONS)}", _encoding),
    **dict.fromkeys(("uses_target", "uses_labels"), FLAG),
    **dict.fromkeys(("plugins", "versions"), FieldRule("a mapping of names to texts", _map_of(_text))),
    "hardware": FieldRule("a mapping", lambda value: isinstance(value, dict)),
    "created": TEXT,
    "predictions": FieldRule("a mapping with sha256 and a file predictions/NAME.parquet", _predictions),
}
OPTIONAL = {  # what older records lack
    "plugin_facts": FieldRule("a mapping of names to mappings", _map_of(lambda value: isinstance(value, dict))),
}
FAILURE = {
    **dict.fromkeys(("address", "error"), TEXT),
    "source": FieldRule("text or null", lambda value: value is None or _text(value)),
}


def check_record(record: Mapping[str, Any], where: str) -> None:
    """Raises: CellfeatError, with `where` (file and line), the record's id and the field, for the first that is not so.

    Fields that nobody reads may be anything, or missing.
    """
    named = f"{where}, record {_short(record['id'])}" if _text(record.get("id")) else where
    _check(record, RECORD, named)
    _check(record, {name: rule for name, rule in OPTIONAL.items() if name in record}, named)
    if len(record["confusion"]) != len(record["classes"]):
        _refuse(named, "confusion", f"has {len(record['confusion'])} rows for {len(record['classes'])} classes")
    address = "/".join((record["row"], record["protocol"], record["classifier"], str(record["seed"])))
    if record["address"] != address:
        _refuse(named, "address", f"is {_short(record['address'])}, but its row, protocol, classifier and seed differ")


def check_failure(line: Any, where: str) -> None:
    """Raises: CellfeatError, as `check_record`."""
    if not isinstance(line, dict):
        raise CellfeatError(f"{where}: no mapping with {', '.join(FAILURE)}; take the line out")
    _check(line, FAILURE, where)


def _check(found: Mapping[str, Any], rules: Mapping[str, FieldRule], where: str) -> None:
    for name, rule in rules.items():
        if name not in found:
            _refuse(where, name, f"is missing; it must be {rule.must}")
        if not rule.holds(found[name]):
            _refuse(where, name, f"is {_short(found[name])}, but must be {rule.must}")


def _refuse(where: str, name: str, fault: str) -> None:
    raise CellfeatError(f"{where}: {name} {fault}. Run the fit again, or take the line out")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
