"""A benchmark suite: rows (methods) x protocols x classifiers x seeds, as one YAML file; expanded into fits.

```yaml
name: laboratories
dataset: {labels: five-class}                  # manifest: a path, or given by --data
backbone: {name: lora-sam, passes: 2}          # of every row that names none
classifiers: [svm-linear, lr]
seeds: [1, 2, 3]
protocols:
  transfers: {name: cross-domain, adapt: test, together: false}
  without-eosinophils: {name: cross-domain, adapt: test, leave_out: [bccd/eosinophil]}
rows:
  none: {align: none}
  dorl: {recipe: dorl, align: {name: cae, epochs: 20}, seeds: [1], protocols: [transfers]}
  network: {align: {name: source-only, model: resnet18}, classifiers: []}   # its own head
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic
import yaml

from cellfeat import recipe as recipes
from cellfeat.errors import CellfeatError, unknown
from cellfeat.recipe import PARTS, ProtocolSection, Recipe

OWN_HEAD = "own-head"  # stands for the classifier of a row that has none
NAME = re.compile(r"[\w.@+-]+")  # parts of addresses and of file names


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class SuiteProtocol(ProtocolSection):
    """A protocol of a run, less its seeds, and classes that are left out of the data (DOMAIN/CLASS)."""

    leave_out: list[str] = pydantic.Field(default_factory=list)


class SuiteRow(_Strict):
    """One method. recipe: where backbone, segmenter, align and finetune start; the sections change it.

    Data and protocols are the suite's, and so is whatever else is not said. finetune: null leaves a recipe's out.
    """

    recipe: str | None = None
    backbone: dict[str, Any] | None = None
    segmenter: dict[str, Any] | None = None
    align: Any = None
    classifiers: list[Any] | None = None
    finetune: dict[str, Any] | None = None
    seeds: list[int] | None = None
    protocols: list[str] | None = None
    note: str = ""  # for readers


class Suite(_Strict):
    """The whole file."""

    name: Annotated[str, pydantic.Field(pattern=r"^[\w.-]+$")]
    dataset: dict[str, Any] = {}
    backbone: dict[str, Any] = {"name": "lora-sam"}
    segmenter: dict[str, Any] | None = None
    classifiers: list[Any] = ["svm-linear"]
    seeds: Annotated[list[int], pydantic.Field(min_length=1)] = [1234]
    probabilities: bool = False  # keep them beside the predicted classes
    protocols: Annotated[dict[str, SuiteProtocol], pydantic.Field(min_length=1)]
    rows: Annotated[dict[str, SuiteRow], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _names(self) -> Suite:
        for name in (*self.rows, *self.protocols):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a row or protocol: letters, digits and _ . @ + - alone")
        return self


class Planned(NamedTuple):
    """One recipe under one seed: a cell of the suite's table, before it is split by source."""

    row: str
    protocol: str
    classifier: str
    seed: int
    recipe: Recipe

    @property
    def address(self) -> str:
        return "/".join((self.row, self.protocol, self.classifier, str(self.seed)))


def read_suite(path: Path) -> Suite:
    """A suite from a file; relative paths of data and labels start in its folder.

    Raises: CellfeatError, one line with the file and what is wrong.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CellfeatError(f"there is no suite {path}; give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CellfeatError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise CellfeatError(f"{path} must be a mapping with the sections {', '.join(Suite.model_fields)}")
    try:
        suite = Suite.model_validate(data)
    except pydantic.ValidationError as error:
        raise CellfeatError(f"{path}: {_explain(error)}") from None
    recipes.locate(suite.dataset, Path(path).parent)
    _check_choices(suite, path)
    return suite


def _explain(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    where = [str(item) for item in first["loc"]]
    if first["type"] == "extra_forbidden":
        models: dict[str, type[pydantic.BaseModel]] = {"protocols": SuiteProtocol, "rows": SuiteRow}
        model = models.get(where[0], Suite) if len(where) > 1 else Suite
        return unknown(f"key {'.'.join(where[:-1])}".strip(), where[-1], model.model_fields)
    return f"{'.'.join(where) or 'the suite'}: {first['msg']}"


def _check_choices(suite: Suite, path: Path) -> None:
    for name, section in suite.protocols.items():
        if "seeds" in section.model_fields_set:
            raise CellfeatError(f"{path}, protocol {name}: seeds are the suite's or a row's, not a protocol's")
    for name, row in suite.rows.items():
        for key in ("seeds", "protocols"):
            if getattr(row, key) == []:
                raise CellfeatError(f"{path}, row {name}: {key} is empty; leave it out for the suite's")
        if row.align is None and row.recipe is None:
            raise CellfeatError(f"{path}, row {name}: it names neither align nor recipe; `align: none` is the baseline")
        for protocol in row.protocols or []:
            if protocol not in suite.protocols:
                raise CellfeatError(f"{path}, row {name}: {unknown('protocol', protocol, suite.protocols)}")


def planned(suite: Suite, data: str | None = None) -> Iterator[Planned]:
    """Every fit of a suite: row by row, so that what a row needs is computed once and then given up."""
    for name, row in suite.rows.items():
        for protocol in row.protocols or suite.protocols:
            for seed in row.seeds or suite.seeds:
                named = suite.classifiers if row.classifiers is None else row.classifiers
                for classifier in named or [None]:
                    yield _plan(suite, name, protocol, classifier, seed, data)


def _plan(suite: Suite, name: str, protocol: str, classifier: Any, seed: int, data: str | None) -> Planned:
    row, section = suite.rows[name], suite.protocols[protocol].model_dump()
    content = recipes.read(row.recipe) if row.recipe else {}
    base: Mapping[str, Any] = {"backbone": suite.backbone, "segmenter": suite.segmenter}
    for key in PARTS:
        own = getattr(row, key, None)
        if own is not None:
            content[key] = _part(own)
        elif not row.recipe and base.get(key) is not None:
            content[key] = base[key]
    if "finetune" in row.model_fields_set:
        content["finetune"] = row.finetune
    content["classifier"] = None if classifier is None else _part(classifier)
    leave_out = section.pop("leave_out")
    content["dataset"] = {**suite.dataset, "leave_out": [*suite.dataset.get("leave_out", []), *leave_out]}
    if data is not None:
        content["dataset"]["manifest"] = data
    content["protocol"] = {**section, "seeds": [seed]}
    recipe = recipes.parse(content, f"row {name} of suite {suite.name}")
    return Planned(name, protocol, OWN_HEAD if classifier is None else _name(classifier), seed, recipe)


def _part(value: Any) -> Any:
    """A plugin by its name alone, with parameters, or several in a chain."""
    if isinstance(value, str):
        return {"name": value}
    return [_part(item) for item in value] if isinstance(value, list) else dict(value)


def _name(classifier: Any) -> str:
    """svm-linear, or svm-linear(C=0.1) where parameters are given."""
    if isinstance(classifier, str):
        return classifier
    given = {key: value for key, value in classifier.items() if key != "name"}
    return classifier["name"] + (f"({','.join(f'{k}={v}' for k, v in given.items())})" if given else "")
