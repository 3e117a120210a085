"""A suite file: what it expands to, and a mistake in it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cellfeat import CellfeatError, recipe
from cellfeat.pipeline import resolve
from cellfeat.registry import installed
from cellfeat.suite import OWN_HEAD, Suite, planned, read_suite

SHIPPED = sorted((Path(__file__).resolve().parent.parent / "benchmarks" / "suites").glob("*.yaml"))


def suite_of(**sections) -> Suite:
    return Suite.model_validate({"name": "s", "protocols": {"p": {}}, "rows": {"none": {"align": "none"}}, **sections})


def written(tmp_path, content) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


# Expansion


def test_rows_times_protocols_times_seeds_times_classifiers_in_this_order():
    suite = suite_of(
        rows={"one": {"align": "none"}, "two": {"align": "coral", "protocols": ["q"], "seeds": [7]}},
        protocols={"p": {"adapt": "none"}, "q": {"folds": 3}},
        classifiers=["lr", {"name": "rf", "n_estimators": 7}],
        seeds=[1, 2],
    )
    found = list(planned(suite))
    names = ("lr", "rf(n_estimators=7)")
    assert [fit.address for fit in found] == [
        *(f"one/{protocol}/{name}/{seed}" for protocol in "pq" for seed in (1, 2) for name in names),
        *(f"two/q/{name}/7" for name in names),
    ]
    for fit in found:
        assert fit.recipe.protocol.seeds == [fit.seed]
        assert fit.recipe.protocol.adapt == ("none" if fit.protocol == "p" else "test")
        assert fit.recipe.protocol.folds == (3 if fit.protocol == "q" else 5)
        assert fit.recipe.classifier.name == fit.classifier.partition("(")[0]
        assert [part.name for part in fit.recipe.align] == ["coral" if fit.row == "two" else "none"]
    assert found[1].recipe.classifier.params == {"n_estimators": 7}


def test_what_a_row_does_not_say_is_the_suites():
    suite = suite_of(
        backbone={"name": "colour", "bins": 3},
        segmenter={"name": "lora-sam"},
        rows={"plain": {}, "own": {"backbone": {"name": "lora-sam"}, "segmenter": {"name": "other"}}},
    )
    plain, own = planned(suite)
    assert (plain.recipe.backbone.name, plain.recipe.backbone.params) == ("colour", {"bins": 3})
    assert plain.recipe.segmenter.name == "lora-sam"
    assert [part.name for part in plain.recipe.align] == ["none"]
    assert plain.recipe.classifier.name == "svm-linear"
    assert (own.recipe.backbone.name, own.recipe.segmenter.name) == ("lora-sam", "other")


def test_a_row_may_start_at_a_recipe_and_change_its_sections():
    base = recipe.parse(recipe.read("dorl"))
    suite = suite_of(
        backbone={"name": "colour"},
        rows={"dorl": {"recipe": "dorl"}, "small": {"recipe": "dorl", "align": {"name": "cae", "epochs": 2}}},
    )
    whole, small = (fit.recipe for fit in planned(suite))
    assert whole.backbone == small.backbone == base.backbone, "the recipe's backbone, and not the suite's"
    assert whole.align == base.align
    assert (small.align[0].name, small.align[0].params) == ("cae", {"epochs": 2})
    assert whole.classifier.name == "svm-linear", "classifiers are the suite's"
    assert whole.protocol.folds == 5
    assert whole.finetune == base.finetune


def test_a_row_may_start_at_a_recipe_in_a_file(tmp_path):
    path = written(tmp_path, {"backbone": {"name": "colour", "bins": 2}, "align": {"name": "coral"}})
    (fit,) = planned(suite_of(rows={"mine": {"recipe": str(path)}}))
    assert (fit.recipe.backbone.params, fit.recipe.align[0].name) == ({"bins": 2}, "coral")


def test_a_row_without_classifiers_answers_by_its_own_head():
    (fit,) = planned(suite_of(rows={"network": {"align": {"name": "source-only"}, "classifiers": []}}))
    assert fit.classifier == OWN_HEAD
    assert fit.address == "network/p/own-head/1234"
    assert fit.recipe.classifier is None


def test_aligners_are_chained_by_a_list_of_names_and_parameters():
    chain = ["per-domain-z", {"name": "coral", "shrinkage": 0.1}]
    (fit,) = planned(suite_of(rows={"both": {"align": chain}}))
    assert [(part.name, part.params) for part in fit.recipe.align] == [
        ("per-domain-z", {}),
        ("coral", {"shrinkage": 0.1}),
    ]


def test_classes_left_out_by_suite_and_protocol_are_left_out_both():
    suite = suite_of(
        dataset={"manifest": "m.csv", "labels": "five-class", "leave_out": ["a/x"]},
        protocols={"p": {}, "q": {"leave_out": ["b/y"]}},
    )
    plain, less = planned(suite)
    assert plain.recipe.dataset.leave_out == ["a/x"]
    assert less.recipe.dataset.leave_out == ["a/x", "b/y"]
    assert less.recipe.dataset.labels == "five-class"
    assert suite.dataset["leave_out"] == ["a/x"], "the suite itself is as it was"


def test_data_named_by_hand_take_the_manifests_place():
    suite = suite_of(dataset={"manifest": "m.csv", "labels": "five-class"})
    (own,), (other,) = planned(suite), planned(suite, "elsewhere.csv")
    assert (own.recipe.dataset.manifest, other.recipe.dataset.manifest) == ("m.csv", "elsewhere.csv")
    assert other.recipe.dataset.labels == "five-class"
    assert suite.dataset["manifest"] == "m.csv"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_row_of_the_shipped_suites_can_be_resolved(path):
    registry = installed()
    found = [resolve(fit.recipe, registry) for fit in planned(read_suite(path))]
    assert len(found) > 10
    assert SHIPPED


# Reading


def test_relative_paths_start_in_the_suites_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    content = {"name": "s", "protocols": {"p": {}}, "rows": {"none": {"align": "none"}}}
    dataset = {"manifest": "cells.csv", "labels": "map.yaml"}
    suite = read_suite(written(tmp_path / "sub", {**content, "dataset": dataset}))
    assert suite.dataset == {
        "manifest": str(tmp_path / "sub" / "cells.csv"),
        "labels": str(tmp_path / "sub" / "map.yaml"),
    }
    suite = read_suite(
        written(tmp_path, {**content, "dataset": {"manifest": "https://host/c.csv", "labels": "five-class"}})
    )
    assert suite.dataset == {"manifest": "https://host/c.csv", "labels": "five-class"}


GOOD = {"name": "s", "protocols": {"p": {}}, "rows": {"none": {"align": "none"}}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("rows: [", "is not YAML: while parsing"),
        ("- one", "must be a mapping with the sections name, dataset, backbone, segmenter, classifiers, seeds,"),
        ({"protocols": {"p": {}}, "rows": {"none": {}}}, "suite.yaml: name: Field required"),
        (GOOD | {"name": "a b"}, "suite.yaml: name: String should match pattern"),
        (GOOD | {"name": "../up"}, "suite.yaml: name: String should match pattern"),
        (GOOD | {"rows": {}}, "suite.yaml: rows: Dictionary should have at least 1 item"),
        (GOOD | {"protocols": {}}, "suite.yaml: protocols: Dictionary should have at least 1 item"),
        (GOOD | {"seeds": []}, "suite.yaml: seeds: List should have at least 1 item"),
        (GOOD | {"classifer": ["lr"]}, "suite.yaml: no key named 'classifer'. Did you mean 'classifiers'"),
        (GOOD | {"rows": {"a": {"algin": "none"}}}, "no key rows.a named 'algin'. Did you mean 'align'"),
        (GOOD | {"protocols": {"p": {"fold": 3}}}, "no key protocols.p named 'fold'. Did you mean 'folds'"),
        (GOOD | {"protocols": {"p": {"folds": 1}}}, "protocols.p.folds: Input should be greater than or equal to 2"),
        (GOOD | {"protocols": {"p": {"adapt": "tset"}}}, "protocols.p.adapt: Input should be 'none', 'test' or"),
        (GOOD | {"protocols": {"p": {"seeds": [1]}}}, "protocol p: seeds are the suite's or a row's"),
        (GOOD | {"rows": {"a": {}}}, "row a: it names neither align nor recipe; `align: none` is the baseline"),
        (GOOD | {"rows": {"a": {"align": "none", "seeds": []}}}, "row a: seeds is empty; leave it out for the suite's"),
        (GOOD | {"rows": {"a/b": {}}}, "'a/b' is no name of a row or protocol: letters, digits and _ . @ + - alone"),
        (GOOD | {"protocols": {"a b": {}}}, "'a b' is no name of a row or protocol"),
        (
            GOOD | {"rows": {"a": {"align": "none", "protocols": ["q"]}}},
            "suite.yaml, row a: no protocol named 'q'. Available: p",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_file(tmp_path, content, text):
    with pytest.raises(CellfeatError) as error:
        read_suite(written(tmp_path, content))
    assert text in str(error.value)
    assert str(tmp_path / "suite.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_suite_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CellfeatError, match=r"^there is no suite .*none\.yaml; give the path of a YAML file$"):
        read_suite(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        ({"dataset": {"manifst": "m.csv"}}, "row none of suite s: no key named 'manifst'. Did you mean 'manifest'"),
        ({"classifiers": [{"C": 1}]}, "row none of suite s: classifier.name is"),
        ({"rows": {"none": {"recipe": "dolr"}}}, "no recipe named 'dolr'. Did you mean 'dorl'"),
        ({"seeds": [-1]}, "row none of suite s: protocol.seeds.0 is -1: Input should be greater than or equal to 0"),
    ],
)
def test_a_mistake_in_a_row_names_the_row(sections, text):
    with pytest.raises(CellfeatError) as error:
        list(planned(suite_of(**sections)))
    assert text in str(error.value)


@pytest.mark.parametrize("name", ["dorl", "per-domain-z+label-shift", "net@112px", "a.b_c-1"])
def test_names_that_may_be_used(name):
    assert next(planned(suite_of(rows={name: {}}))).row == name


def test_a_row_can_leave_a_recipes_fine_tuning_out_or_change_it():
    rows = {
        "as-published": {"recipe": "dorl"},
        "without": {"recipe": "dorl", "finetune": None},
        "shorter": {"recipe": "dorl", "finetune": {"masks": "otsu", "epochs": 3}},
    }
    suite = Suite.model_validate({"name": "s", "protocols": {"p": {}}, "rows": rows})
    found = {plan.row: plan.recipe.finetune for plan in planned(suite, "cells.csv")}
    assert found["as-published"].masks == "truth"
    assert found["without"] is None
    assert (found["shorter"].masks, found["shorter"].params) == ("otsu", {"epochs": 3})
