"""scikit-learn's SVC, faster: kernel values by matrix products, a class pair per core; the model is the same.

libsvm fits one machine for each pair of classes, one after another, and computes each kernel value by itself whenever
it has left its cache. Here every value is computed once, by BLAS, and libsvm is given the matrix; pairs, which know
nothing of each other, are fitted side by side in threads. A weight of 0 keeps the rows of other classes out of a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np
from sklearn.svm import SVC

from cellfeat_classifiers.inner_products import KERNELS, apply_kernel, kernel_matrix
from cellfeat_classifiers.threads import in_threads

BLOCK_BYTES = 64 * 2**20  # of kernel values at a time, in prediction
DOUBT = 1e-12  # relative to the largest sum that a decision can be: closer to 0, rounding could change its sign


class KernelSVC(SVC):
    """`sklearn.svm.SVC` with its parameters, attributes and predictions.

    Fitting needs n x n float64 values (of n training rows); where they do not fit into memory, or for other kernels
    than "linear", "poly" and "rbf", libsvm computes kernel values by itself. Departures: decisions come from matrix
    products and differ from libsvm's in the last digits; those that rounding could turn around are libsvm's own.
    """

    # The hooks through which SVC itself calls libsvm; checks before and after them stay scikit-learn's.
    def _dense_fit(
        self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray, solver_type: int, kernel: str, random_seed: int
    ) -> None:
        weight = sample_weight if len(sample_weight) else np.ones(len(y))
        kept = np.flatnonzero(weight > 0)
        sizes = np.bincount(y[kept].astype(int), minlength=len(self.classes_))
        if kernel not in KERNELS or self.probability is True or not sizes.all():
            super()._dense_fit(X, y, sample_weight, solver_type, kernel, random_seed)
            return
        order = kept[np.argsort(y[kept], kind="stable")]  # a class's rows side by side, in their order
        rows = np.ascontiguousarray(X[order])
        matrix = kernel_matrix(rows, kernel, self._gamma, self.coef0, self.degree)
        given = (rows, kernel) if matrix is None else (matrix, "precomputed")
        self._join(order, rows, sizes, self._fit_pairs(*given, weight[order], sizes))
        if _numbers_skip_removed_rows():
            self.support_ = np.searchsorted(kept, self.support_).astype(np.int32)

    def _fit_pairs(self, given: np.ndarray, kernel: str, weight: np.ndarray, sizes: np.ndarray) -> list[_Pair]:
        """A fitted machine for every pair of classes, in libsvm's order; `support_` counts all rows."""
        ends = np.cumsum(sizes)
        own = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        params = {name: value for name, value in self.get_params().items() if name not in ("kernel", "probability")}

        def fit(classes: tuple[int, int]) -> _Pair:
            labels, counts = np.zeros(len(weight)), np.zeros(len(weight))
            labels[own[classes[1]]] = 1.0
            for part in (own[name] for name in classes):
                counts[part] = weight[part]
            pair = _Pair(kernel=kernel, **params)
            pair.fit_given(given, labels, counts, self.class_weight_[list(classes)], self._gamma)
            if _numbers_skip_removed_rows():
                pair.support_ = np.r_[own[classes[0]], own[classes[1]]][pair.support_]
            return pair

        pairs = list(combinations(range(len(sizes)), 2))
        longest_first = sorted(pairs, key=lambda pair: -int(sizes[list(pair)].sum()))
        found = dict(zip(longest_first, in_threads(fit, longest_first), strict=True))
        return [found[pair] for pair in pairs]

    def _join(self, order: np.ndarray, rows: np.ndarray, sizes: np.ndarray, pairs: list[_Pair]) -> None:
        """The pairs' machines as the one model that libsvm makes of them."""
        n_classes, starts = len(sizes), np.cumsum(sizes) - sizes
        coefficients = np.zeros((n_classes - 1, len(rows)))
        used = np.zeros(len(rows), bool)
        for (first, second), pair in zip(combinations(range(n_classes), 2), pairs, strict=True):
            places, split = pair.support_, pair._n_support[0]
            coefficients[second - 1, places[:split]] = pair.dual_coef_[0, :split]
            coefficients[first, places[split:]] = pair.dual_coef_[0, split:]
            used[places] = True
        self.support_ = order[used].astype(np.int32)
        self.support_vectors_ = rows[used]
        self._n_support = np.add.reduceat(used, starts, dtype=np.int32)
        self.dual_coef_ = np.ascontiguousarray(coefficients[:, used])
        self.intercept_ = np.concatenate([pair.intercept_ for pair in pairs])
        self._probA = self._probB = np.empty(0)
        self.fit_status_ = max(pair.fit_status_ for pair in pairs)
        self._num_iter = np.concatenate([pair._num_iter for pair in pairs])
        self._warn_from_fit_status()

    def _dense_predict(self, X: np.ndarray) -> np.ndarray:
        if not self._known():
            return super()._dense_predict(X)
        n_classes = len(self.classes_)
        votes = np.zeros((len(X), n_classes), int)
        wins = self._dense_decision_function(X) > 0
        for number, (first, second) in enumerate(combinations(range(n_classes), 2)):
            votes[:, first] += wins[:, number]
            votes[:, second] += ~wins[:, number]
        return votes.argmax(axis=1)  # of equal votes the first class, as libsvm

    def _dense_decision_function(self, X: np.ndarray) -> np.ndarray:
        """(N, D) float64 -> (N, pairs) float64, positive for the first class of a pair."""
        if not self._known():
            return super()._dense_decision_function(X)
        found, doubtful = np.empty((len(X), len(self._intercept_))), np.zeros(len(X), bool)
        pairs = self._pair_coefficients()
        for part in self._parts(len(X)):
            found[part], doubtful[part] = self._decide(X[part], pairs)
        if doubtful.any():
            found[doubtful] = super()._dense_decision_function(X[doubtful])
        return found

    def _known(self) -> bool:
        """Whether decisions can come from matrix products: not when libsvm lost a class to weights of 0."""
        return self.kernel in KERNELS and len(self._n_support) == len(self.classes_)

    def _parts(self, n: int) -> Iterator[slice]:
        step = max(1, BLOCK_BYTES // (8 * max(len(self.support_vectors_), 1)))
        return (slice(begin, begin + step) for begin in range(0, n, step))

    def _decide(self, X: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, pairs) decisions of (n, D) rows, and (n,) whether rounding could turn one of a row's around."""
        vectors = self.support_vectors_
        if self.kernel == "linear":
            decisions = X @ (vectors.T @ pairs)
            largest = np.linalg.norm(X, axis=1)[:, None] * (np.linalg.norm(vectors, axis=1) @ np.abs(pairs))
        else:
            squares = (np.einsum("nd,nd->n", rows, rows) for rows in (X, vectors))
            values = apply_kernel(X @ vectors.T, self.kernel, self._gamma, self.coef0, self.degree, *squares)
            decisions = values @ pairs
            largest = np.abs(values).max(axis=1, initial=0.0)[:, None] * np.abs(pairs).sum(axis=0)
        decisions += self._intercept_
        largest += np.abs(self._intercept_)
        return decisions, (np.abs(decisions) <= DOUBT * largest).any(axis=1)

    def _pair_coefficients(self) -> np.ndarray:
        """(support vectors, pairs): what each vector counts in each decision; libsvm's table has a column less."""
        n_classes, sizes = len(self.classes_), self._n_support
        ends = np.cumsum(sizes)
        found = np.zeros((len(self.support_vectors_), len(self._intercept_)))
        for number, (first, second) in enumerate(combinations(range(n_classes), 2)):
            for own, other in ((first, second - 1), (second, first)):
                part = slice(ends[own] - sizes[own], ends[own])
                found[part, number] = self._dual_coef_[other, part]
        return found


class _Pair(SVC):
    """One pair's machine, straight from libsvm."""

    def fit_given(
        self, given: np.ndarray, labels: np.ndarray, weight: np.ndarray, class_weight: np.ndarray, gamma: float
    ) -> None:
        """`SVC.fit` without its checks, which would read the whole matrix for every pair."""
        self.class_weight_, self._gamma, self._effective_probability = class_weight, gamma, False
        self._dense_fit(given, labels, weight, 0, self.kernel, 0)  # 0: C-SVC; nothing is random without probabilities

    def _warn_from_fit_status(self) -> None:
        """That it stopped early is told once, for all pairs."""


@cache
def _numbers_skip_removed_rows() -> bool:
    """Whether this scikit-learn's `support_` counts only rows that have a weight, as 1.9 does."""
    return 0 in SVC(kernel="linear").fit([[0.0], [-1.0], [1.0]], [0, 0, 1], [0, 1, 1]).support_
