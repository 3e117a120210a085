"""What is published of a recipe: no path of the machine that made it."""

from __future__ import annotations

from cellfeat.recipe import parse
from cellfeat.results_folder import published


def test_files_keep_their_names_alone():
    content = {
        "dataset": {"manifest": "/home/me/cells.csv", "labels": "/home/me/map.yaml"},
        "backbone": {"name": "lora-sam", "weights": "/home/me/vit.pt", "adapter": "~/runs/1/adapter"},
        "align": [{"name": "cae", "weights": "../run/align-0", "epochs": 3}],
        "classifier": {"name": "svm-linear"},
    }
    told = published(parse(content)).as_dict()
    assert told["dataset"] | {"domains": [], "leave_out": []} == {
        "manifest": "cells.csv",
        "labels": "map.yaml",
        "domains": [],
        "leave_out": [],
    }
    assert told["backbone"] == {"name": "lora-sam", "weights": "vit.pt", "adapter": "adapter"}
    assert told["align"] == [{"name": "cae", "weights": "align-0", "epochs": 3}]
    assert told["segmenter"] is None


def test_names_with_a_slash_are_no_paths():
    recipe = parse({"backbone": {"name": "timm", "model": "hf-hub:timm/resnet18"}})
    assert published(recipe).backbone.params == {"model": "hf-hub:timm/resnet18"}


def test_a_digest_does_not_depend_on_where_files_lie():
    one, other = (parse({"backbone": {"name": "lora-sam", "weights": f"/{folder}/vit.pt"}}) for folder in "ab")
    assert one.digest != other.digest
    assert published(one).digest == published(other).digest
