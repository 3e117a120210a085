"""Every shipped plugin keeps the contract of its slot, checked by the same functions that third parties use."""

from __future__ import annotations

import re
from functools import partial

import pytest
from helpers import narrow_autoencoders, narrowed

from cellfeat.registry import installed
from cellfeat.testing import examine, toy_cells

SMALL = {  # parameters that keep a check short; a method without an entry is checked as it is
    "cae": {"epochs": 1, "batch_size": 4, "encoder_depth": 1, "decoder_depth": 1, "head_width": 8},
    "bc-sam-ae": {"epochs": 1, "batch_size": 4},
    "ae-cfe": {"epochs": 1, "batch_size": 4},
    "source-only": {"model": "test_resnet", "weights": "random", "image_size": 32, "epochs": 1, "batch_size": 6},
    "dann": {"epochs": 1, "iterations_per_epoch": 3},
    "mcc": {"epochs": 1, "iterations_per_epoch": 3},
    "lead": {"epochs": 1, "source_epochs": 1},
}
TRAINED = ("cae", "bc-sam-ae", "ae-cfe")  # on images of 128 px, so that a few cells keep the checks short


@pytest.fixture(scope="module", autouse=True)
def threads(one_thread):
    """The two processes of a check share the cores with other tests."""


@pytest.fixture(scope="module")
def narrow():
    """Two of the networks have one size, which the parameters do not tell."""
    with narrow_autoencoders():
        yield


def offers(slot: str) -> list:
    return [pytest.param(offer, id=offer.name) for offer in installed().offers if offer.slot == slot]


def test_every_shipped_plugin_loads():
    assert not installed().broken
    names = {slot: set(installed().names(slot)) for slot in ("backbone", "segmenter", "align", "classifier")}
    assert names == {
        "backbone": {
            *("lora-sam", "resnext50", "timm", "colour"),
            *(f"dinov2-{size}{registers}" for size in "sblg" for registers in ("", "-reg")),
            *(f"dinobloom-{size}" for size in "sblg"),
        },
        "segmenter": {"lora-sam", "sam-automatic", "otsu", "classical", "cell-detector"},
        "align": {
            *("none", "per-domain-z", "mean-centre", "coral", "cae", "bc-sam-ae", "ae-cfe", "source-only"),
            *(
                "subspace",
                "ot-linear",
                "ot-entropic",
                "tca",
                "importance",
                "label-shift",
                "balanced-lda",
                "self-trained-lda",
                "reinhard",
                "macenko",
            ),
            *("dann", "mcc", "lead", "skada"),
        },
        "classifier": {"rf", "svm-linear", "svm-poly", "svm-rbf", "lr", "ann", "xgboost", "majority"},
    }


@pytest.mark.parametrize("offer", offers("align"))
def test_aligners(offer, narrow):
    small, few = partial(offer.factory, **SMALL.get(offer.name, {})), None
    if offer.name in TRAINED:
        small, few = partial(narrowed, offer.factory, **SMALL[offer.name]), toy_cells(per_class=1)
    report = examine("align", small, cells=few)
    report.raise_failures()
    reasons = [item.text for item in report.findings if item.passed is None]
    assert not [text for text in reasons if text.startswith(("not reached", "another process"))], reasons


@pytest.mark.parametrize("slot", ["backbone", "segmenter", "align", "classifier"])
def test_every_factory_explains_itself_and_its_parameters(slot):
    for offer in installed().offers:
        if offer.slot == slot:
            assert len(offer.summary) > 20, offer.name
            for name, field in offer.parameters().model_fields.items():
                assert field.annotation is not None, (offer.name, name)


BASELINES = ("none", "mean-centre", "source-only")  # which no publication describes


@pytest.mark.parametrize("offer", offers("align"))
def test_an_aligner_declares_the_publication_that_its_documentation_names(offer):
    paper, documentation = offer.facts().paper, offer.factory.__doc__
    assert bool(paper) == (offer.name not in BASELINES)
    named = [*paper.split(" ")[0].split(","), *re.findall(r"\b(?:19|20)\d\d\b", paper)]  # first author and year
    assert [word for word in named if word not in documentation] == [], paper
