"""The YAML of a run: read, checked, changed by --set, hashed."""

from __future__ import annotations

import pytest
import yaml

from cellfeat import recipe as recipes
from cellfeat.errors import CellfeatError
from cellfeat.recipe import Part, Recipe, assign, parse, read

FULL = {
    "dataset": {"manifest": "cells.csv", "labels": "five-class", "domains": ["a", "b"]},
    "finetune": {"masks": "truth", "epochs": 150},
    "backbone": {"name": "lora-sam", "weights": "vit_b"},
    "segmenter": {"name": "otsu"},
    "align": [{"name": "per-domain-z"}, {"name": "cae", "epochs": 300}],
    "classifier": {"name": "svm-linear", "C": 1.0},
    "protocol": {"name": "cross-domain", "adapt": "test", "folds": 5, "seeds": [1234], "source": [], "target": []},
}


def test_an_empty_recipe_is_the_default():
    recipe = parse({})
    assert recipe == Recipe()
    assert recipe.dataset.manifest == "demo"
    assert [part.name for part in recipe.align] == ["none"]
    assert recipe.protocol.seeds == [1234]
    assert recipe.classifier is None


def test_a_full_recipe_keeps_everything():
    recipe = parse(FULL)
    assert recipe.backbone.params == {"weights": "vit_b"}
    assert recipe.finetune.params == {"epochs": 150}
    assert [part.params for part in recipe.align] == [{}, {"epochs": 300}]
    assert recipe.as_dict()["align"] == FULL["align"]
    assert parse(yaml.safe_load(recipe.as_yaml())) == recipe


def test_one_aligner_needs_no_list():
    assert parse({"align": {"name": "cae", "epochs": 2}}).align == [Part.of("cae", {"epochs": 2})]


def test_defaults_are_not_shared_between_recipes():
    one = Recipe()
    one.dataset.manifest = "changed.csv"
    one.protocol.seeds.append(5)
    one.align[0].name = "changed"
    assert parse({}) == Recipe()
    assert Recipe().dataset.manifest == "demo"
    assert Recipe().protocol.seeds == [1234]
    assert Recipe().align[0].name == "none"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"aling": {}}, "no section named 'aling'. Did you mean 'align'? Available: align, backbone, classifier, "),
        (
            {"dataset": {"manifst": "x"}},
            "no key named 'manifst'. Did you mean 'manifest'? Available: domains, labels, ",
        ),
        (
            {"protocol": {"fold": 3}},
            "no key named 'fold'. Did you mean 'folds'? Available: adapt, fitted_folds, folds, name, seeds, ",
        ),
        ({"protocol": {"adapt": "tset"}}, "protocol.adapt is 'tset': Input should be 'none', 'test' or 'heldout'"),
        ({"protocol": {"folds": 1}}, "protocol.folds is 1: Input should be greater than or equal to 2"),
        ({"protocol": {"seeds": []}}, "protocol.seeds is []: List should have at least 1 item"),
        ({"align": []}, "align is []: List should have at least 1 item"),
        ({"backbone": {"weights": "x"}}, "backbone.name is {'weights': 'x'}: Field required"),
        ({"backbone": "lora-sam"}, "backbone is 'lora-sam', but must have a name and parameters, as in {name: NAME}"),
        ({"align": "cae"}, "align is 'cae', but must have a name and parameters, as in {name: NAME}"),
        ({"align": ["cae"]}, "align.0 is 'cae', but must have a name and parameters, as in {name: NAME}"),
        ({"dataset": "cells.csv"}, "dataset is 'cells.csv', but must have keys and values"),
    ],
)
def test_a_fault_is_one_clear_line(data, message):
    with pytest.raises(CellfeatError) as error:
        parse(data, "recipe my.yaml")
    assert str(error.value).startswith(f"recipe my.yaml: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_a_recipe_must_be_a_mapping(data):
    with pytest.raises(CellfeatError, match="the recipe must be a mapping with the sections dataset, finetune, backb"):
        parse(data)


def test_the_digest_depends_on_content_alone():
    turned = {key: FULL[key] for key in reversed(FULL)}
    turned["classifier"] = {"gamma": 2, "C": 1.0, "name": "svm-rbf"}
    digest = parse(FULL).digest
    assert parse(turned).digest == parse(FULL | {"classifier": {"name": "svm-rbf", "C": 1.0, "gamma": 2}}).digest
    assert len(digest) == 64
    for changed in (
        {"backbone": {"name": "lora-sam", "weights": "vit_l"}},
        {"align": FULL["align"][::-1]},
        {"protocol": FULL["protocol"] | {"seeds": [1]}},
        {"dataset": FULL["dataset"] | {"manifest": "others.csv"}},
    ):
        assert parse(FULL | changed).digest != digest


def test_the_digest_does_not_depend_on_the_folder_of_the_data():
    moved = FULL | {"dataset": FULL["dataset"] | {"manifest": "/elsewhere/cells.csv"}}
    assert parse(moved).digest == parse(FULL).digest


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("backbone.weights=vit_l", "backbone", "weights", "vit_l"),
        ("protocol.folds=3", "protocol", "folds", 3),
        ("protocol.seeds=[1, 2]", "protocol", "seeds", [1, 2]),
        ("classifier.C=0.5", "classifier", "C", 0.5),
        ("clf.C=0.5", "classifier", "C", 0.5),
        ("finetune.epochs=2", "finetune", "epochs", 2),
        ("dataset.labels=null", "dataset", "labels", None),
        ("segmenter.path=a=b", "segmenter", "path", "a=b"),
        ("backbone.flag=yes", "backbone", "flag", True),
        ("backbone.text=[", "backbone", "text", "["),  # not YAML: taken as it is
        (" backbone.weights =vit_l", "backbone", "weights", "vit_l"),
    ],
)
def test_set_changes_one_value(text, section, key, value):
    data = parse(FULL).as_dict()
    expected = parse(FULL).as_dict()
    expected[section][key] = value
    assign(data, [text])
    assert data == expected


def test_set_reaches_one_aligner_of_a_chain_by_name():
    data = parse(FULL).as_dict()
    assign(data, ["align.cae.epochs=5", "align.per-domain-z.eps=0.1"])
    assert data["align"] == [{"name": "per-domain-z", "eps": 0.1}, {"name": "cae", "epochs": 5}]


@pytest.mark.parametrize("text", ["align.epochs=5", "align.cae.epochs=5"])
def test_set_needs_no_name_for_a_single_aligner(text):
    data = parse({"align": {"name": "cae"}}).as_dict()
    assign(data, [text])
    assert data["align"] == [{"name": "cae", "epochs": 5}]
    raw = {"align": {"name": "cae"}}
    assign(raw, [text])
    assert raw["align"] == {"name": "cae", "epochs": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone.weights", "--set 'backbone.weights' is not of the form section.key=value, as in align.epochs=5"),
        ("weights=vit_l", "--set 'weights=vit_l' is not of the form section.key=value"),
        ("backbone.=3", "--set 'backbone.=3' is not of the form section.key=value"),
        ("backbon.weights=x", "no section named 'backbon'. Did you mean 'backbone'?"),
        (
            "align.epochs=5",
            "--set align.epochs: say which of the aligners per-domain-z, cae, as in align.per-domain-z.epochs=5",
        ),
        (
            "align.coral.eps=5",
            "--set align.coral.eps: say which of the aligners per-domain-z, cae, as in align.per-domain-z.eps=5",
        ),
        ("backbone.a.b=5", "--set backbone.a.b: backbone has one level of keys, as in backbone.a"),
    ],
)
def test_a_wrong_set_is_one_clear_line(text, message):
    with pytest.raises(CellfeatError) as error:
        assign(parse(FULL).as_dict(), [text])
    assert str(error.value).startswith(message)


def test_a_section_that_a_command_does_not_use_is_refused():
    with pytest.raises(CellfeatError) as error:
        assign(parse(FULL).as_dict(), ["protocol.folds=3"], ("dataset", "backbone"))
    assert str(error.value) == "--set protocol.folds=3: this command uses no protocol; it can be told dataset, backbone"


@pytest.mark.parametrize("section", ["finetune", "segmenter", "classifier"])
def test_a_section_that_the_run_does_not_have_cannot_be_set(section):
    with pytest.raises(CellfeatError, match=rf"--set {section}.epochs: this run has no {section}"):
        assign(Recipe().as_dict(), [f"{section}.epochs=1"])


def write(path, data) -> str:
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_relative_data_and_label_maps_are_taken_from_the_files_folder(tmp_path):
    path = write(tmp_path / "r.yaml", {"dataset": {"manifest": "sub/cells.csv", "labels": "map.yaml"}})
    section = read(path)["dataset"]
    assert section == {"manifest": str(tmp_path / "sub" / "cells.csv"), "labels": str(tmp_path / "map.yaml")}


@pytest.mark.parametrize(
    "section",
    [{"manifest": "demo", "labels": "five-class"}, {"manifest": "/data/cells.csv", "labels": "/maps/mine.yaml"}, {}],
)
def test_names_and_absolute_paths_stay(tmp_path, section):
    assert read(write(tmp_path / "r.yaml", {"dataset": section})) == {"dataset": section}


@pytest.mark.parametrize("data", [{"dataset": {"manifest": 5}}, {"dataset": {"manifest": None}}, {"dataset": []}, [1]])
def test_nonsense_is_left_for_parse_to_refuse(tmp_path, data):
    content = read(write(tmp_path / "r.yaml", data))
    assert content == data
    with pytest.raises(CellfeatError):
        parse(content)


def test_an_unknown_recipe_is_answered_with_the_built_in_ones():
    with pytest.raises(CellfeatError) as error:
        read("dmeo")
    assert str(error.value).startswith("no recipe named 'dmeo'. Did you mean 'demo'? Available: ")
    assert str(error.value).endswith(". Or give the path of a YAML file")


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00"])
def test_a_file_that_is_not_yaml_is_one_clear_line(tmp_path, content):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(CellfeatError, match=r"r.yaml is not YAML: ") as error:
        read(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", recipes.built_in())
def test_built_in_recipes_are_whole(name):
    assert parse(read(name)).digest


@pytest.mark.parametrize(
    ("seeds", "part"), [([-1], "greater than or equal to 0"), ([2**32], "less than"), ([1, 1], "twice")]
)
def test_seeds_that_no_generator_takes_are_refused(seeds, part):
    with pytest.raises(CellfeatError, match=part):
        parse({"protocol": {"seeds": seeds}})


def test_the_digest_does_not_depend_on_where_the_data_lie():
    here, there = (parse({"dataset": {"manifest": f"{at}/m.csv", "labels": f"{at}/map.yaml"}}) for at in ("/a", "/b"))
    assert here.digest == there.digest
    assert here.digest != parse({"dataset": {"manifest": "/a/m.csv", "labels": "five-class"}}).digest


def test_a_section_that_may_be_absent_is_taken_out_by_null():
    data = parse({"finetune": {"epochs": 3}, "segmenter": {"name": "otsu"}, "classifier": {"name": "lr"}}).as_dict()
    assign(data, ["finetune=null", "segmenter = null", "clf=null"])
    assert (data["finetune"], data["segmenter"], data["classifier"]) == (None, None, None)
    one = parse({"finetune": {"stop_after": 85}, "classifier": {"name": "rf"}}).as_dict()
    assign(one, ["finetune.stop_after=null", "clf.max_depth=null"])
    assert one["finetune"]["stop_after"] is None, "a value is set, the section stays"
    assert one["classifier"] == {"name": "rf", "max_depth": None}
    for text in ("backbone=null", "finetune=3", "align=null"):
        with pytest.raises(CellfeatError, match="not of the form"):
            assign(data, [text])
