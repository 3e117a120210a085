"""The seven classical classifiers of DoRL and BC-SAM, with the published parameters as defaults, and the majority."""

from __future__ import annotations

from cellfeat import hookimpl
from cellfeat_classifiers import factories


@hookimpl
def cellfeat_classifier() -> dict:
    return {
        "rf": factories.rf,
        "svm-linear": factories.svm_linear,
        "svm-poly": factories.svm_poly,
        "svm-rbf": factories.svm_rbf,
        "lr": factories.lr,
        "ann": factories.ann,
        "xgboost": factories.xgboost,
        "majority": factories.majority,
    }
