"""XGBoost's classifier, every class of the same weight."""

from __future__ import annotations

from xgboost import XGBClassifier

from cellfeat_classifiers.balanced import BalancedFit


class BalancedXGBClassifier(BalancedFit, XGBClassifier):
    """`XGBClassifier` with its parameters; every cell's loss weighted."""
