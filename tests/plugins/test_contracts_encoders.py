"""Every shipped backbone, segmenter and classifier keeps the contract of its slot, as third parties check theirs."""

from __future__ import annotations

import pytest

from cellfeat.registry import Offer, installed
from cellfeat.testing import examine

SMALL = {  # parameters that keep a check short; a method without an entry is checked as it is
    "resnext50": {"weights": "random", "image_size": 64},
    "timm": {"model": "test_vit", "weights": "random"},
    "dinov2-s-reg": {"weights": "random", "image_size": 28, "pooling": "both"},
    "rf": {"n_estimators": 20},
    "xgboost": {"n_estimators": 10},
}
# One factory makes all of these, of other numbers, and their largest takes 4.5 GB.
LIKE_ANOTHER = [
    *(f"dinov2-{size}{registers}" for size in "sblg" for registers in ("", "-reg") if size + registers != "s-reg"),
    *(f"dinobloom-{size}" for size in "sblg"),
]
WITH_WEIGHTS = {"sam-automatic"}  # of a file that its own tests make: test_sam_automatic.py checks the contract
BY_DESIGN = {"majority": {"learns"}}  # it is there to be beaten


@pytest.fixture(scope="module", autouse=True)
def threads(one_thread):
    """The two processes of a check share the cores with other tests."""


def offers() -> list:
    return [
        pytest.param(offer, id=f"{offer.slot}-{offer.name}")
        for offer in installed().offers
        if offer.slot in ("backbone", "segmenter", "classifier") and offer.name not in (*LIKE_ANOTHER, *WITH_WEIGHTS)
    ]


@pytest.mark.parametrize("offer", offers())
def test_shipped_methods_keep_the_contract(offer: Offer):
    report = examine(offer.slot, offer.factory, SMALL.get(offer.name, {}), name=offer.name)
    faults = {finding.check: finding.text for finding in report.failed}
    assert faults.keys() == BY_DESIGN.get(offer.name, set()), faults
    fresh = next(finding for finding in report.findings if finding.check == "fresh-process")
    assert fresh.passed, fresh.text  # found by its name where it is used, and not skipped
