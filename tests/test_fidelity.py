"""`docs/fidelity.md` is whole, and what it quotes is so: ids, verdicts, files, options, the recipes' parameters."""

from __future__ import annotations

import csv
import inspect
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from cellfeat_lora_sam import LoraSam
from cellfeat_lora_sam.finetune import epoch_rate
from cellfeat_lora_sam.named import NAMED_WEIGHTS
from parity import test_ae_cfe_parity, test_bc_sam_parity, test_cae_parity, test_import_parity

from cellfeat import cli, compose, labels
from cellfeat.pipeline import resolve
from cellfeat.recipe import Recipe, parse, read
from cellfeat.registry import installed

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
IDS = {
    f"{letter}{number}" for letter, last in (("R", 7), ("B", 8), ("M", 13), ("P", 8)) for number in range(1, last + 1)
}
VERDICTS = {"same", "different", "impossible"}
HEADING = "| item | published | here | verdict | why, effect |"
FOLDERS = ("tests", "docs", "plugins", "cellfeat", "benchmarks")
SECTIONS = ("align", "backbone", "classifier", "dataset", "finetune", "protocol")
RECIPE_OF = {"BC-SAM's autoencoder": "bc-sam", "AE-CFE": "ae-cfe"}  # all other sections are about `dorl`


class Row(NamedTuple):
    section: str
    id: str
    published: str
    here: str
    verdict: str
    why: str


def rows() -> list[Row]:
    found, section, inside = [], "", False
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section = line[3:]
        inside = line == HEADING or (inside and line.startswith("|"))
        if inside and line != HEADING and not line.startswith("|---"):
            item, *cells = (cell.strip() for cell in line[1:-1].split("|"))
            assert len(cells) == 4, line
            found.append(Row(section, item.split()[0], *cells))
    return found


ROWS = rows()
CODE = [(row, code) for row in ROWS for cell in row[2:] for code in re.findall(r"`([^`]+)`", cell)]


@cache
def recipe(name: str) -> Recipe:
    """The shipped recipe with its defaults."""
    return resolve(parse(read(name)), installed())


def quoted(row: Row, name: str) -> dict[str, Any]:
    """The parameters that a row may quote: fine-tuning in its own section, else those of everything after it."""
    of = recipe(name)
    if row.section == "LoRA-SAM fine-tuning":
        return {**of.backbone.params, "masks": of.finetune.masks, **of.finetune.params}
    return {**of.backbone.params, **of.align[0].params, **of.protocol.model_dump()}


def quotes() -> list[tuple[str, Row, str, Any]]:
    """(recipe, row, key, value) of every `key: value` in code; a recipe named in code holds for the rest of its row."""
    found, name, before = [], "", None
    for row, code in CODE:
        if row is not before:
            name, before = RECIPE_OF.get(row.section, "dorl"), row
        if code in ("dorl", "bc-sam", "dorl-fixed"):
            name = code
        elif re.match(r"\w+: ", code):
            found += [(name, row, key, value) for key, value in yaml.safe_load(f"{{{code}}}").items()]
    return found


def test_every_id_has_one_row():
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids)), sorted({key for key in ids if ids.count(key) > 1})
    assert {key for key in ids if key[0] in "RBMP"} == IDS
    for letter in {key[0] for key in ids}:
        numbers = [int(key[1:]) for key in ids if key[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1)), letter


def test_rows_refer_to_rows_that_exist():
    ids = {row.id for row in ROWS}
    mentioned = re.findall(r"\b[DLXCSAKRBMPW]\d{1,2}\b", PAGE)
    assert set(mentioned) == ids


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_each_row_has_a_verdict_and_a_reason(row):
    assert row.verdict in VERDICTS
    assert row.published
    assert row.here
    assert row.verdict == "same" or row.why


def test_files_exist():
    paths = {code for code in re.findall(r"`([^`\s]+)`", PAGE) if code.partition("/")[0] in FOLDERS and "/" in code}
    assert "tests/parity/test_cae_parity.py" in paths
    for path in paths | set(re.findall(r"`(\w+\.(?:toml|md))`", PAGE)):
        assert (ROOT / path).is_file(), path


def test_every_parity_test_is_listed():
    for path in (ROOT / "tests" / "parity").glob("test_*.py"):
        assert f"`tests/parity/{path.name}`" in PAGE


OPTIONS = [(row, code) for row, code in CODE if code.startswith("--")]


@pytest.mark.parametrize(("row", "code"), OPTIONS, ids=[code for _, code in OPTIONS])
def test_options_can_be_given_to_a_run(row, code):
    """As `cellfeat run` takes them, on the recipe that the row is about."""
    words = shlex.split(code)
    given = list(zip(words[::2], words[1::2], strict=True))
    known = {name for parameter in typer.main.get_command(cli.app).commands["run"].params for name in parameter.opts}
    assert {option for option, _ in given} <= known
    one = dict(given)
    made = compose.recipe(
        recipe=RECIPE_OF.get(row.section, "dorl"),
        align=one.get("--align"),
        classifier=one.get("--clf"),
        sets=[value for option, value in given if option == "--set"],
    )
    resolve(made, installed())
    if "--labels" in one and not one["--labels"].endswith(".yaml"):
        labels.load_vocabulary(one["--labels"])
    if made.finetune is not None:
        assert set(made.finetune.params) <= set(inspect.signature(LoraSam.finetune).parameters), made.finetune.params


def test_names_of_recipes_and_parameters_exist():
    for name in re.findall(r"`--recipe ([^`\s]+)`", PAGE):
        recipe(name)
    for name in re.findall(r"`--align ([^`\s]+)`", PAGE):
        installed().find("align", name)
    keys = re.findall(rf"`(?:--set )?({'|'.join(SECTIONS)})\.(\w+)", PAGE)
    assert ("finetune", "rank") in keys
    for section, key in keys:
        of = recipe("dorl")
        part = of.align[0] if section == "align" else getattr(of, section)
        known = {
            **part.model_dump(),
            **(inspect.signature(LoraSam.finetune).parameters if section == "finetune" else {}),
        }
        assert key in known or section == "classifier", f"{section}.{key}"  # a classifier's are tried with the options


def test_quoted_parameters_are_those_of_the_recipes():
    found = quotes()
    assert len(found) > 40
    for name, row, key, value in found:
        wanted = quoted(row, name)
        assert key in wanted, f"{row.id}: {name} has no {key}"
        assert value == wanted[key], f"{row.id}: {name} has {key} {wanted[key]}, not {value}"


@pytest.mark.parametrize("name", ["dorl", "bc-sam", "dorl-fixed", "ae-cfe"])
def test_every_parameter_in_a_recipe_is_quoted(name):
    content = read(name)
    said = {key for of, row, key, _ in quotes() if of == name and row.section != "LoRA-SAM fine-tuning"}
    shared = {key for _, row, key, _ in quotes() if row.section == "LoRA-SAM fine-tuning"}
    (part,) = parse(content).align
    assert set(part.params) <= said
    assert set(content["finetune"]) <= shared
    everywhere = {key for _, _, key, _ in quotes()}
    assert set(parse(content).backbone.params) | set(content["protocol"]) <= everywhere
    assert content["dataset"] == {"labels": "dorl-13"}
    assert "`--labels dorl-13`" in PAGE


def test_all_recipes_fine_tune_alike():
    for name in ("bc-sam", "dorl-fixed", "ae-cfe"):
        assert recipe(name).finetune == recipe("dorl").finetune
        assert recipe(name).backbone == recipe("dorl").backbone


def test_learning_rates_of_the_chosen_epochs():
    (row,) = [row for row in ROWS if row.id == "L15"]
    tuning = recipe("dorl").finetune.params
    rate = epoch_rate(tuning["stop_after"], tuning["lr"], tuning["epochs"], tuning["warmup"])
    assert f"{tuning['stop_after']} of {tuning['epochs']}, rate {rate:.1e}".replace("e-0", "e-") in row.published


def test_misprints_are_those_of_the_reference_tables():
    text = {row.id: f"{row.published} {row.here}" for row in ROWS}
    with (ROOT / "benchmarks" / "reference" / "misprints.csv").open() as file:
        for line in csv.DictReader(file):
            if line["id"] in IDS:
                assert line["printed"] in text[line["id"]]
                assert line["correct"] in text[line["id"]]


def test_digests_are_those_of_the_named_weights():
    (row,) = [row for row in ROWS if row.id == "W1"]
    for name, start in re.findall(r"`(vit_\w)`,? (?:sha256 )?([0-9a-f]{8})…", row.here):
        assert NAMED_WEIGHTS[name].digest.startswith(f"sha256:{start}")


@pytest.mark.parametrize(
    ("module", "tolerances"),
    [
        (test_import_parity, ("RTOL",)),
        (test_cae_parity, ("RTOL", "RTOL", "GRADIENT_RTOL")),
        (test_bc_sam_parity, ("RTOL", "RTOL", "GRADIENT_RTOL")),
        (test_ae_cfe_parity, ("RTOL", "RTOL", "GRADIENT_RTOL")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tolerances_are_those_of_the_tests(module, tolerances):
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `tests/parity/{Path(module.__file__).name}`")]
    allowed = [float(text) for text in line.split("|")[3].split(";")]
    assert allowed == [getattr(module, name) for name in tolerances]
