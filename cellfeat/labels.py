"""Label vocabularies: which classes are told apart, and which of them every known label belongs to."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfeat.errors import CellfeatError, unknown

# DoRL's canonical order.
DORL_CLASSES = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "myeloblast",
    "promyelocyte",
    "myelocyte",
    "metamyelocyte",
    "neutrophil_banded",
    "neutrophil_segmented",
    "monocyte",
    "lymphocyte_typical",
    "lymphocyte_atypical",
    "smudge_cell",
)
FIVE_CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")

# Acevedo-20: prefix of the file name -> class; the last three are dropped, as in DoRL and BC-SAM.
ACEVEDO20 = {
    "BA": "basophil",
    "EO": "eosinophil",
    "ERB": "erythroblast",
    "PMY": "promyelocyte",
    "MY": "myelocyte",
    "MMY": "metamyelocyte",
    "BNE": "neutrophil_banded",
    "SNE": "neutrophil_segmented",
    "MO": "monocyte",
    "LY": "lymphocyte_typical",
    "IG": None,
    "NEUTROPHIL": None,
    "PLATELET": None,
}
# Matek-19 (AML-Cytomorphology_LMU): code -> class. DoRL counts monoblasts as monocytes and drops bilobed promyelocytes.
MATEK19 = {
    "BAS": "basophil",
    "EOS": "eosinophil",
    "EBO": "erythroblast",
    "MYO": "myeloblast",
    "PMO": "promyelocyte",
    "MYB": "myelocyte",
    "MMZ": "metamyelocyte",
    "NGB": "neutrophil_banded",
    "NGS": "neutrophil_segmented",
    "MON": "monocyte",
    "MOB": "monocyte",
    "LYT": "lymphocyte_typical",
    "LYA": "lymphocyte_atypical",
    "KSC": "smudge_cell",
    "PMB": None,
}

# Labels that mean something and belong to no class of either vocabulary.
_OUTSIDE = ("immature_granulocyte", "platelet", "promyelocyte_bilobed")
KNOWN_LABELS = tuple(dict.fromkeys((*DORL_CLASSES, *FIVE_CLASSES, *_OUTSIDE)))


def normalised(label: str) -> str:
    """One spelling: lower case, words joined by underscores, accents as one character each.

    Folders of a Mac come with letters and accents apart, which look the same and are not.
    """
    return "_".join(unicodedata.normalize("NFC", label).strip().casefold().replace("-", " ").replace("_", " ").split())


_SYNONYMS = {normalised(code): name for code, name in (ACEVEDO20 | MATEK19).items() if name}
_SYNONYMS |= {"monoblast": "monocyte", "ig": "immature_granulocyte", "pmb": "promyelocyte_bilobed"}


def known_label(label: str) -> str | None:
    """The label of `KNOWN_LABELS` that a label is, or that it is a published code of; None for any other word."""
    key = normalised(label)
    key = _SYNONYMS.get(key, key)
    return key if key in KNOWN_LABELS else None


@dataclass(frozen=True)
class Vocabulary:
    """A closed set of classes. mapping: normalised label -> class, or None for a label that is known and dropped."""

    name: str
    classes: tuple[str, ...]
    mapping: Mapping[str, str | None]

    def place(self, label: str) -> str | None:
        """The class that a label belongs to, or None when it is known, here or elsewhere, and is to be dropped.

        Codes of Acevedo-20 and Matek-19 stand for their classes. Raises: CellfeatError for a label known nowhere.
        """
        key = normalised(label)
        if key in self.mapping:
            return self.mapping[key]
        key = _SYNONYMS.get(key, key)
        if key in self.mapping:
            return self.mapping[key]
        if key in KNOWN_LABELS:
            return None
        remedy = "Rename it, or map it in a file of your own: --labels map.yaml"
        raise CellfeatError(unknown("label", label, {*self.mapping, *KNOWN_LABELS}, remedy))


def _vocabulary(name: str, classes: tuple[str, ...], **synonyms: str) -> Vocabulary:
    return Vocabulary(name, classes, {**{label: label for label in classes}, **synonyms})


FIVE_CLASS = _vocabulary(
    "five-class",
    FIVE_CLASSES,
    neutrophil_banded="neutrophil",
    neutrophil_segmented="neutrophil",
    lymphocyte_typical="lymphocyte",
)
DORL_13 = _vocabulary("dorl-13", DORL_CLASSES, neutrophil="neutrophil_segmented", lymphocyte="lymphocyte_typical")
VOCABULARIES = {"five-class": FIVE_CLASS, "dorl-13": DORL_13, "thirteen-class": DORL_13}


def vocabulary_of(labels: Iterable[str]) -> str | None:
    """The smallest vocabulary that has all these labels; None where a label is a word that nobody knows."""
    words = {normalised(label) for label in labels if label}
    if not words <= set(KNOWN_LABELS):
        return None
    return FIVE_CLASS.name if all(map(FIVE_CLASS.place, words)) else DORL_13.name


def load_vocabulary(source: str | Path | Vocabulary) -> Vocabulary:
    """A vocabulary by name ("five-class", "dorl-13", alias "thirteen-class"), or from a user's YAML file.

    The file maps labels to classes, null drops a label: `{classes: [...], map: {label: class or null}}` fixes the
    order of the classes too; a plain `{label: class or null}` sorts them.

    Raises: CellfeatError naming the file and what is wrong in it.
    """
    if isinstance(source, Vocabulary):
        return source
    if str(source) in VOCABULARIES:
        return VOCABULARIES[str(source)]
    path = Path(source)
    if path.suffix.lower() not in (".yaml", ".yml") and not path.is_file():
        remedy = "A file of your own ends in .yaml: --labels map.yaml"
        raise CellfeatError(unknown("label vocabulary", str(source), VOCABULARIES, remedy))
    content = _read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise CellfeatError(f"{path}: no label map; write one 'label: class' per line (class null drops the label)")
    full = content.keys() <= {"classes", "map"} and not isinstance(content.get("map"), str)
    labels = content.get("map") or {} if full else content
    return _user_vocabulary(path, labels, content.get("classes") if full else None)


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _refuse_repeated_keys(path, yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except OSError as error:
        raise CellfeatError(f"{path}: the label map cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None


def _refuse_repeated_keys(path: Path, node: Any) -> None:
    """YAML readers keep the last of two equal keys in silence."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Hashable] = set()
    for key, value in node.value:
        if key.value in seen:
            raise CellfeatError(f"{path}: line {key.start_mark.line + 1} maps {key.value!r} a second time")
        seen.add(key.value)
        _refuse_repeated_keys(path, value)


def _user_vocabulary(path: Path, labels: Any, classes: Any) -> Vocabulary:
    if not isinstance(labels, dict):
        raise CellfeatError(f"{path}: 'map' must hold 'label: class' lines, but holds {labels!r}")
    if classes is None:
        classes = sorted({name for name in labels.values() if isinstance(name, str)})
    if not isinstance(classes, list):
        raise CellfeatError(f"{path}: 'classes' must be a list, but is {classes!r}")
    for name in (*classes, *labels, *(name for name in labels.values() if name is not None)):
        if not isinstance(name, str) or not name.strip():
            raise CellfeatError(f"{path}: {name!r} is not a name; write it in quotes if it is one")
    if len(set(map(normalised, classes))) != len(classes):
        raise CellfeatError(f"{path}: a class is listed twice: {', '.join(classes)}")
    if len(classes) < 2:
        raise CellfeatError(f"{path}: {len(classes)} classes; there is nothing to tell apart below two")
    mapping: dict[str, str | None] = {}
    for label, name in labels.items():
        if name is not None and name not in classes:
            raise CellfeatError(f"{path}: label {label!r}: {unknown('class', name, classes)}")
        if mapping.setdefault(normalised(label), name) != name:
            raise CellfeatError(f"{path}: {label!r} is mapped twice, to {mapping[normalised(label)]!r} and {name!r}")
    return Vocabulary(str(path), tuple(classes), {**{normalised(name): name for name in classes}, **mapping})
