"""scikit-learn's multi-layer perceptron, every class of the same weight."""

from __future__ import annotations

from sklearn.neural_network import MLPClassifier

from cellfeat_classifiers.balanced import BalancedFit


class BalancedMLPClassifier(BalancedFit, MLPClassifier):
    """`MLPClassifier` with its parameters; loss, and accuracy for early stopping, weighted."""
