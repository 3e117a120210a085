"""benchmarks/reference: the published tables add up, and what its README computes from them is so."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from cellfeat.labels import ACEVEDO20, DORL_CLASSES, MATEK19

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "reference"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
DOMAINS = ("matek19", "acevedo20", "sysu3h")
CLASSIFIERS = {"rf", "xgboost", "svm-poly", "svm-linear", "svm-rbf", "lr", "ann"}
END_TO_END = {"resnext", "dann", "mcc", "lead"}
# matek19 and acevedo20 as sources: the cells of which DoRL's average is the mean.
SIX = {(source, target) for source in DOMAINS[:2] for target in DOMAINS}
FOUR = {(source, target) for source in DOMAINS[:2] for target in DOMAINS[:2]}
AVERAGE = ("average", "average")


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def place(row: dict[str, str]) -> tuple[str, ...]:
    return row["table"], row["method"], row["classifier"], row["source"], row["target"]


CELLS = {place(row): float(row["value_percent"]) for row in rows("cells.csv")}
MISPRINTS = {place(row): (float(row["printed"]), float(row["correct"])) for row in rows("misprints.csv")}


def line(table: str, method: str, classifier: str) -> dict[tuple[str, ...], float]:
    """One row of a published table: (source, target) -> percent."""
    return {key[3:]: value for key, value in CELLS.items() if key[:3] == (table, method, classifier)}


def data_set(name: str, quantity: str) -> dict[str, float]:
    found = {
        r["label"]: float(r["value"])
        for r in rows("data-sets.csv")
        if r["data_set"] == name and r["quantity"] == quantity
    }
    assert found, (name, quantity)
    return found


def one(name: str, quantity: str) -> float:
    (value,) = data_set(name, quantity).values()
    return value


LINES = sorted({key[:3] for key in CELLS})


def test_every_cell_is_well_formed():
    for row in rows("cells.csv"):
        assert None not in row, row
        assert None not in row.values(), row
        assert re.fullmatch(r"\d{1,2}\.\d\d", row["value_percent"]), row
        assert re.fullmatch(r"(\d{1,2}\.\d\d)?", row["std_percent"]), row
        assert row["classifier"] in ({""} if row["method"] in END_TO_END else CLASSIFIERS), row
        assert {row["source"], row["target"]} <= set(DOMAINS) or (row["source"], row["target"]) == AVERAGE, row
    assert len(CELLS) == len(rows("cells.csv")), "a cell is there twice"


def test_no_cell_is_missing():
    assert Counter(key[0] for key in CELLS) == {
        "dorl-paper": 17 * 7,
        "dorl-notebook": 6 * 7 + 4 * 3,
        "bc-sam-paper": 6 * 4,
        "bc-sam-notebook": 6 * 4,
    }
    for name in LINES:
        expected = {"dorl-paper": SIX | {AVERAGE}, "dorl-notebook": SIX | {AVERAGE}}.get(name[0], FOUR)
        if name[0] == "dorl-notebook" and name[2] not in ("xgboost", "svm-linear"):
            expected |= {("sysu3h", target) for target in DOMAINS}
        assert line(*name).keys() == expected, name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("dorl-paper", "dorl", "svm-linear", "acevedo20", "matek19"), 55.42),
        (("dorl-paper", "dorl", "svm-linear", "matek19", "acevedo20"), 63.18),
        (("dorl-paper", "resnext", "", "acevedo20", "sysu3h"), 0.81),
        (("dorl-paper", "ae-cfe", "rf", "acevedo20", "matek19"), 45.10),
        (("dorl-notebook", "dorl", "svm-linear", "acevedo20", "matek19"), 43.06),
        (("dorl-notebook", "dorl", "rf", "sysu3h", "matek19"), 31.45),
        (("dorl-notebook", "dorl", "lr", "sysu3h", "sysu3h"), 93.34),
        (("bc-sam-notebook", "bc-sam", "rf", "matek19", "acevedo20"), 24.07),
        (("bc-sam-notebook", "bc-sam", "lr", "acevedo20", "matek19"), 40.77),
        (("bc-sam-paper", "bc-sam", "svm-poly", "acevedo20", "matek19"), 50.67),
        (("bc-sam-paper", "bc-sam", "svm-poly", "acevedo20", "acevedo20"), 72.99),
        (("bc-sam-paper", "bc-sam", "svm-rbf", "matek19", "matek19"), 92.51),
    ],
)
def test_cells_stand_where_they_were_printed(key, value):
    assert CELLS[key] == value


@pytest.mark.parametrize("name", LINES, ids=" ".join)
def test_every_source_is_best_on_itself(name):
    """Exchanged columns would break this, for it holds in every published row."""
    cells = line(*name)
    for source in DOMAINS:
        across = [value for (s, target), value in cells.items() if s == source != target]
        assert not across or cells[source, source] > max(across), source


def test_columns_have_their_sums():
    """Taken from the sources apart from the file: two cells exchanged in a row leave its mean alone, but not these."""
    sums = {
        ("dorl-paper", "matek19"): (1525.75, 620.78, 397.96),
        ("dorl-paper", "acevedo20"): (687.81, 1321.79, 330.16),
        ("dorl-notebook", "matek19"): (566.13, 317.79, 87.91),
        ("dorl-notebook", "acevedo20"): (217.88, 526.57, 110.09),
        ("dorl-notebook", "sysu3h"): (179.13, 104.18, 331.14),
        ("bc-sam-paper", "matek19"): (552.30, 182.51, 0),
        ("bc-sam-paper", "acevedo20"): (236.60, 459.64, 0),
        ("bc-sam-notebook", "matek19"): (548.09, 209.10, 0),
        ("bc-sam-notebook", "acevedo20"): (270.29, 449.58, 0),
    }
    found: Counter[tuple[str, ...]] = Counter()
    for (table, _, _, source, target), value in CELLS.items():
        found[table, source, target] += value
    for (table, source), expected in sums.items():
        assert [found[table, source, target] for target in DOMAINS] == pytest.approx(expected, abs=0.001), (
            table,
            source,
        )


def test_deviations_are_those_of_the_notebooks_and_one_of_the_paper():
    found = {place(row): float(row["std_percent"]) for row in rows("cells.csv") if row["std_percent"]}
    headline = ("dorl", "svm-linear", "acevedo20", "matek19")
    assert found["dorl-paper", *headline] == 2.8
    assert found["dorl-notebook", *headline] == pytest.approx(8.2, abs=0.05)
    notebooks = {key for key in CELLS if "notebook" in key[0] and key[3:] != AVERAGE}
    assert found.keys() == notebooks | {("dorl-paper", *headline)}
    inside = [value for key, value in found.items() if key[3] == key[4] != "sysu3h" and "notebook" in key[0]]
    assert max(inside) < 2 < max(found.values()) / 4  # folds of a large source agree; on another laboratory they do not


def test_averages_are_means_but_for_the_misprints():
    wrong = {}
    for name in LINES:
        cells = line(*name)
        mean = sum(cells[key] for key in SIX) / 6 if AVERAGE in cells else 0
        if AVERAGE in cells and abs(cells[AVERAGE] - mean) > 0.01:
            wrong[*name, *AVERAGE] = (cells[AVERAGE], pytest.approx(mean, abs=0.005))
    assert wrong == {key: value for key, value in MISPRINTS.items() if key[3:] == AVERAGE}
    assert {key[1:3] for key in wrong} == {("dorl", "lr"), ("dorl", "ann"), ("mcc", ""), ("bc-sam", "lr")}


def test_the_isbi_table_is_the_notebook_but_for_the_misprints():
    table = {key[1:]: value for key, value in CELLS.items() if key[:2] == ("bc-sam-paper", "bc-sam")}
    notebook = {key[1:]: value for key, value in CELLS.items() if key[0] == "bc-sam-notebook"}
    assert {key for key in notebook if key[1] != "lr"} == table.keys()
    different = {("bc-sam-paper", *key): (v, notebook[key]) for key, v in table.items() if v != notebook[key]}
    assert different == {key: value for key, value in MISPRINTS.items() if key[3:] != AVERAGE}
    assert {printed for printed, _ in different.values()} == {50.67, 72.99, 92.51}


def test_misprints_are_identified_and_explained():
    assert Counter(row["id"] for row in rows("misprints.csv")) == {"R1": 2, "R2": 1, "R3": 1, "N1": 1, "N2": 1, "N3": 1}
    notes = {place(row): row["note"] for row in rows("cells.csv")}
    for row in rows("misprints.csv"):
        assert CELLS[place(row)] == float(row["printed"])
        assert f"misprint {row['id']}" in notes[place(row)]
        assert row["correct"] in row["explanation"]
    assert sum("misprint" in note for note in notes.values()) == len(MISPRINTS)


def test_copied_cells_are_marked():
    copied = {place(row) for row in rows("cells.csv") if row["note"].startswith("copied from Salehi et al. 2022")}
    ae_cfe = {("dorl-paper", "ae-cfe", "rf", *pair) for pair in FOUR}
    assert copied == ae_cfe | {("bc-sam-paper", "resnext", "", *pair) for pair in FOUR}
    # Salehi et al. print one decimal.
    assert all(round(CELLS[key], 1) == CELLS[key] for key in copied)


def test_sizes_add_up():
    labels = data_set("matek19", "label-count")
    assert sum(labels.values()) == one("matek19", "published") == 18365
    assert labels["PMB"] == one("matek19", "dropped") == 18
    assert 18365 - 18 - one("matek19", "unexplained") == one("matek19", "used") == 18341
    assert data_set("acevedo20", "dropped") == {"PLATELET": 2348, "IG": 151, "NEUTROPHIL": 50}
    assert one("acevedo20", "published") - 2348 - 151 - 50 == one("acevedo20", "used") == 14543
    assert one("sysu3h", "used") == 331
    assert one("all", "used") == sum(one(name, "used") for name in DOMAINS) == 33215


def test_labels_are_those_that_cellfeat_reads():
    assert data_set("matek19", "label-count").keys() == MATEK19.keys()
    assert [code for code, name in MATEK19.items() if name is None] == list(data_set("matek19", "dropped"))
    assert {code for code, name in ACEVEDO20.items() if name is None} == data_set("acevedo20", "dropped").keys()
    assert set(MATEK19.values()) - {None} == set(DORL_CLASSES)
    assert one("matek19", "classes") == len(DORL_CLASSES)
    assert one("acevedo20", "classes") == len(set(ACEVEDO20.values()) - {None})


def test_majority_baselines():
    labels = data_set("matek19", "label-count")
    baseline = data_set("matek19", "majority-baseline")
    assert baseline == {max(labels, key=labels.__getitem__): 46.3}
    assert round(100 * labels["NGS"] / one("matek19", "used"), 1) == 46.3
    assert data_set("acevedo20", "majority-baseline") == {"EO": 21.4}


def test_the_ceiling_follows_from_the_classes_that_acevedo_lacks():
    labels, known = data_set("matek19", "label-count"), set(ACEVEDO20.values())
    lacking = {code: labels[code] for code, name in MATEK19.items() if name and name not in known}
    assert lacking == data_set("matek19", "unreachable")
    assert sum(lacking.values()) == 3294
    ceiling = 100 * (1 - 3294 / one("matek19", "used"))
    assert round(ceiling) == one("matek19", "accuracy-ceiling") == 82
    assert all(value <= ceiling for key, value in CELLS.items() if key[3:] == ("acevedo20", "matek19"))


def test_the_readme_lists_what_is_below_the_majority():
    lists: dict[tuple[str, str, float], list[str]] = {}
    for (table, method, classifier, source, target), value in CELLS.items():
        baseline = one(target, "majority-baseline") if target in DOMAINS[:2] else 0
        if value < baseline:
            name = f"{method} {classifier}".strip()
            lists.setdefault((table, f"{source} → {target}", baseline), []).append(f"{name} {value:.2f}")
    expected = [f"| `{table}` | {way} | {base} | {', '.join(cells)} |" for (table, way, base), cells in lists.items()]
    section = README.partition("## Below the majority baseline")[2].partition("\n## ")[0]
    assert [row for row in section.splitlines() if row.startswith("| `")] == expected
    assert section.split()[0] == str(sum(map(len, lists.values()))) == "28"


def test_how_far_paper_and_notebook_differ():
    pairs = {
        key[2:]: abs(value - CELLS["dorl-paper", *key[1:]])
        for key, value in CELLS.items()
        if key[0] == "dorl-notebook" and key[3:] in SIX
    }
    large = [key for key, difference in pairs.items() if difference > 8]
    assert (len(large), len(pairs)) == (10, 36)
    assert all(source != target for _, source, target in large)
    assert round(max(pairs.values()), 1) == 20.1
    inside = max(difference for (_, source, target), difference in pairs.items() if source == target)
    assert "10 of DoRL's 36 cells" in README
    assert f"agree to {inside:.1f}" in README


def is_mean_of_five(percent: float, images: int) -> bool:
    """Whether k right answers in five tests of all images give it, rounded or cut to two decimals."""
    k = round(percent / 100 * 5 * images)
    return any(-0.005 - 1e-9 <= 100 * right / (5 * images) - percent < 0.01 for right in (k - 1, k, k + 1))


def test_which_sysu3h_cells_can_be_means_of_five_folds():
    cells = {key: value for key, value in CELLS.items() if key[4] == "sysu3h" != key[3]}
    own = {key: is_mean_of_five(value, 331) for key, value in cells.items() if key[1] in ("dorl", "bc-sam")}
    others = {key: is_mean_of_five(value, 331) for key, value in cells.items() if key not in own}
    assert all(own.values())
    assert sum(key[0] == "dorl-paper" for key in own) == 24
    assert (list(others.values()).count(False), len(others)) == (8, 10)
    assert "8 of the 10 sysu3h cells" in README
