"""The YAML of one run: read, checked, completed, hashed. The command line's options are another way to write it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml

from cellfeat.errors import CellfeatError, unknown

DEMO = "demo"  # the data set's name when none is given
OPTIONAL = ("finetune", "segmenter", "classifier")  # sections that a recipe may leave out
PARTS = ("backbone", "segmenter", "align", "classifier")  # sections that name a plugin


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Part(pydantic.BaseModel):
    """One plugin by name, with its parameters beside the name."""

    model_config = pydantic.ConfigDict(extra="allow")
    name: str

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @classmethod
    def of(cls, name: str, params: Mapping[str, Any]) -> Part:
        return cls(name=name, **params)


class DatasetSection(_Section):
    """manifest: a CSV's path, or `demo`. labels: a vocabulary or a YAML map; None keeps the manifest's labels.

    domains: only these. leave_out: classes that are not to be used, each as DOMAIN/CLASS.
    """

    manifest: str = DEMO
    labels: str | None = None
    domains: list[str] = []
    leave_out: list[str] = []


class FinetuneSection(pydantic.BaseModel):
    """Fine-tune the backbone on masks before the run: `truth`, or the segmenter that makes them."""

    model_config = pydantic.ConfigDict(extra="allow")
    masks: str = "truth"
    domains: list[str] = []

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ProtocolSection(_Section):
    """See `cellfeat.splits` and `cellfeat.evaluate`.

    together: several targets are adapted to in one fit; false: one fit for each. fitted_folds: only so many of the
    folds are fitted; None: all. shots: labelled target cells per class, of few-shot alone.
    """

    name: Literal["cross-domain", "leave-one-domain-out", "few-shot"] = "cross-domain"
    adapt: Literal["none", "test", "heldout"] = "test"
    together: bool = True
    folds: Annotated[int, pydantic.Field(ge=2)] = 5
    fitted_folds: Annotated[int, pydantic.Field(ge=1)] | None = None
    shots: Annotated[int, pydantic.Field(ge=1)] = 5
    seeds: Annotated[list[Annotated[int, pydantic.Field(ge=0, lt=2**32)]], pydantic.Field(min_length=1)] = [1234]
    source: list[str] = []
    target: list[str] = []

    @pydantic.field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("the same seed twice gives the same run twice")
        return seeds


class Recipe(_Section):
    """One run, whole."""

    dataset: DatasetSection = DatasetSection()
    finetune: FinetuneSection | None = None
    backbone: Part = Part(name="lora-sam")
    segmenter: Part | None = None
    align: Annotated[list[Part], pydantic.Field(min_length=1)] = [Part(name="none")]
    classifier: Part | None = None
    protocol: ProtocolSection = ProtocolSection()

    @pydantic.field_validator("align", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, (Mapping, Part)) else value

    def as_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)

    @property
    def digest(self) -> str:
        """sha256 over the recipe's content, whatever the order of its keys and the folder its data lie in."""
        content = self.as_dict()
        content["dataset"]["manifest"] = Path(self.dataset.manifest.partition("?")[0]).name  # a signature is no content
        content["dataset"]["labels"] = self.dataset.labels and Path(self.dataset.labels).name
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse(data: Any, origin: str = "the recipe") -> Recipe:
    """A recipe from plain data; the first fault is one clear line."""
    if not isinstance(data, Mapping):
        raise CellfeatError(f"{origin} must be a mapping with the sections {', '.join(Recipe.model_fields)}")
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as error:
        raise CellfeatError(f"{origin}: {_explain(error)}") from None


def _explain(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    path = [str(item) for item in first["loc"]]
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[_Section]] = {"dataset": DatasetSection, "protocol": ProtocolSection}
        model = sections.get(path[0], Recipe)
        return unknown("key" if len(path) > 1 else "section", path[-1], model.model_fields)
    if first["type"] == "model_type" or (first["type"] == "list_type" and path == ["align"]):
        written = "a name and parameters, as in {name: NAME}" if path[0] in PARTS else "keys and values"
        return f"{'.'.join(path)} is {first['input']!r}, but must have {written}"
    return f"{'.'.join(path)} is {first['input']!r}: {first['msg']}"


def built_in() -> list[str]:
    """The names of the recipes that come with cellfeat."""
    return sorted(
        path.name[:-5] for path in files("cellfeat").joinpath("recipes").iterdir() if path.name[-5:] == ".yaml"
    )


def read(name_or_path: str) -> dict[str, Any]:
    """The plain data of a built-in recipe or of a file; relative paths of data and labels start in its folder."""
    if name_or_path in built_in():
        text = files("cellfeat").joinpath("recipes", f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return yaml.safe_load(text)
    path = Path(name_or_path)
    if not path.is_file():
        raise CellfeatError(unknown("recipe", name_or_path, built_in(), "Or give the path of a YAML file"))
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    section = data.get("dataset") if isinstance(data, dict) else None
    if isinstance(section, dict):
        locate(section, path.parent)
    return data


def locate(dataset: dict[str, Any], folder: Path) -> None:
    """Let the relative paths of a dataset section start in a folder, in place."""
    for key, value in dataset.items():
        # A manifest is a path; labels are one when they are not the name of a vocabulary.
        is_path = value != DEMO if key == "manifest" else key == "labels" and str(value).endswith((".yaml", ".yml"))
        if isinstance(value, str) and is_path and "://" not in value:
            dataset[key] = str(folder / value)


def assign(data: dict[str, Any], assignments: Iterable[str], sections: Collection[str] | None = None) -> None:
    """Apply `--set section.key=value` in place; values are YAML. In a chain of aligners: `align.NAME.key=value`.

    A section that may be left out is taken out by `finetune=null`. sections: those that the command uses; None: all.
    """
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = ["classifier" if key == "clf" and not i else key for i, key in enumerate(path.strip().split("."))]
        if len(keys) == 1 and keys[0] in OPTIONAL and value.strip() in ("null", "~"):
            data[keys[0]] = None  # as in finetune=null: the section is left out
            continue
        if not equals or len(keys) < 2 or not all(keys):
            raise CellfeatError(f"--set {text!r} is not of the form section.key=value, as in align.epochs=5")
        if keys[0] not in Recipe.model_fields:
            raise CellfeatError(unknown("section", keys[0], sections or Recipe.model_fields))
        if sections is not None and keys[0] not in sections:
            raise CellfeatError(f"--set {text}: this command uses no {keys[0]}; it can be told {', '.join(sections)}")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
        _place(data, keys, parsed)


def _place(data: dict[str, Any], keys: list[str], value: Any) -> None:
    section = data.get(keys[0])
    if keys[0] == "align":
        parts: list[dict[str, Any]] = section if isinstance(section, list) else [section or {}]
        names = [part.get("name") for part in parts]
        if len(keys) == 2 and len(names) == 1:
            parts[0][keys[1]] = value
        elif len(keys) == 3 and keys[1] in names:
            parts[names.index(keys[1])][keys[2]] = value
        else:
            raise CellfeatError(
                f"--set {'.'.join(keys)}: say which of the aligners {', '.join(map(str, names))}, as in "
                f"align.{names[0] if names else 'NAME'}.{keys[-1]}={value}"
            )
        return
    if section is None:
        raise CellfeatError(f"--set {'.'.join(keys)}: this run has no {keys[0]}")
    if len(keys) > 2:
        raise CellfeatError(f"--set {'.'.join(keys)}: {keys[0]} has one level of keys, as in {keys[0]}.{keys[1]}")
    section[keys[1]] = value
