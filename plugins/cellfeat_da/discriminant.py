"""Align `balanced-lda` and `self-trained-lda`: posteriors of a shrunken discriminant, alone or fitted to a target."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, SavesState
from cellfeat_da.moments import require_seen

PRIOR_CELLS = 5.0  # the mean of a target class is drawn to the domain's mean as by so many cells
ROUNDS, STEPS = 4, 5  # the target is placed anew, and in each round the discriminant is fitted anew so often


class Discriminant(NamedTuple):
    """Scores of class k are x @ weight[:, k] + bias[k]; means (K, D) are those of the classes."""

    weight: np.ndarray
    bias: np.ndarray


class BalancedLDA(SavesState):
    """Align `balanced-lda`: every cell as its posterior under a shrunken linear discriminant of the labelled cells.

    Features are standardised by class-balanced moments (each class counts the same), brought to their first
    `components` principal components, and classified by `fit_discriminant`: Gaussians with class means and one
    covariance, equal priors. With p_k the softmax of its scores, transform and predict_proba both give (p_1 … p_K).
    Any linear classifier on them repeats the discriminant's decisions. No row of a target is used.

    Fisher's discriminant (1936); shrinkage after Ledoit and Wolf (J. Multivariate Analysis 88, 2004), never less than
    `shrinkage`. Ours: the floor, and that classes are balanced in the moments as well as in the discriminant. The
    intensity is one for cells that have weights.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, True
    paper = "Ledoit and Wolf, J. Multivariate Analysis 88, 2004 (the shrinkage)"

    def __init__(self, components: int = 128, shrinkage: float = 0.3) -> None:
        check_parameters(components, shrinkage)
        self.components, self.shrinkage = components, shrinkage

    def fit(self, cells: Cells, context: Context) -> Self:
        known = cells.label >= 0
        classes = labelled_classes("balanced-lda", cells.label[known])
        values, share = cells.pooled[known].astype(np.float64), one_hot(cells.label[known], classes)
        mean, std = balanced_moments(values, share)
        reduced, axes, centre = principal((values - mean) / std, None, self.components)
        found = fit_discriminant(reduced, balanced(share), self.shrinkage)
        self.classes_ = classes
        self.weight_, self.bias_ = unfolded(found, axes, centre, mean, std, 0.0)
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float32 posteriors, rows sum to 1; a cell of any domain."""
        return self.predict_proba(cells, context).astype(np.float32)

    def predict_proba(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float64, columns in the order of `classes_`."""
        return softmax(cells.pooled.astype(np.float64) @ self.weight_ + self.bias_)


class SelfTrainedLDA(SavesState):
    """Align `self-trained-lda`: `balanced-lda` whose discriminant and whose place for the target are learned jointly.

    A source domain is standardised by its class-balanced moments, z = (x - mean_k m_k) / s. Of a target the moments
    under equal classes are not known, and its plain mean goes wrong where classes are rarer or more common than in the
    source. So from z = (x - mean) / std of all its cells, in each of 4 rounds:

    1. a discriminant is fitted on the source, posteriors R of the target cells are taken, and it is fitted again on
       source and target cells, 5 times; a target cell counts R_ik / (K q_k), q = (column means of R + 1 / K) / 2,
       all of them together as much as the sources;
    2. the class-balanced mean of the target, the mean over k of sum_i R_ik z_i / (sum_i R_ik + 5), is moved onto that
       of the source. The last discriminant stands, and the last place: it is not fitted again to that.

    The features are posteriors, as in `balanced-lda`. Every target is placed by itself and has its own discriminant;
    source rows are scored by the mean of them, or without a target by that of the sources. Labelled target rows
    (few-shot) keep their labels in R and are otherwise treated like the rest of the target; a domain without labels
    is a target.

    That the shift between domains is one of location and class shares is the model of Zhang et al. (Domain Adaptation
    under Target and Conditional Shift, ICML 2013), who solve it by kernel means. Self-training is Yarowsky's (ACL
    1995), here soft, as expectation-maximisation with a shared covariance. Ours: balanced moments instead of
    estimated class shares (which fed their errors back to the place of the target, and lost), the alternation, and
    posteriors as features.
    """

    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, True
    paper = 'Zhang et al., "Domain Adaptation under Target and Conditional Shift", ICML 2013 (the model of the shift)'

    def __init__(self, components: int = 128, shrinkage: float = 0.3) -> None:
        check_parameters(components, shrinkage)
        self.components, self.shrinkage = components, shrinkage

    def fit(self, cells: Cells, context: Context) -> Self:
        trained = (cells.label >= 0) & ~cells.is_target
        labels = cells.label[cells.label >= 0]
        classes = labelled_classes("self-trained-lda", labels)
        if not trained.any():
            raise CellfeatError("align 'self-trained-lda' got no labelled source cell; it needs a labelled source")
        sources = sorted(set(cells.domain[trained].tolist()))
        targets = sorted(set(cells.domain.tolist()) - set(sources))
        values, share = cells.pooled.astype(np.float64), one_hot(cells.label, classes)
        source, place = place_sources(values, share, cells.domain, trained, sources)
        self.classes_, self.weight_, self.bias_, joint = classes, {}, {}, []
        for name in targets:
            rows = cells.domain == name
            mean, std = plain_moments(values[rows])
            fitted = self._place_target(source, share[trained], (values[rows] - mean) / std, share[rows])
            found, axes, centre, shift = fitted
            self.weight_[name], self.bias_[name] = unfolded(found, axes, centre, mean, std, shift)
            joint.append((found, axes, centre))
        if not targets:
            reduced, axes, centre = principal(source, None, self.components)
            joint.append((fit_discriminant(reduced, balanced(share[trained]), self.shrinkage), axes, centre))
        for name in sources:
            mean, std, shift = place[name]
            parts = [unfolded(found, axes, centre, mean, std, shift) for found, axes, centre in joint]
            self.weight_[name] = np.mean([weight for weight, _ in parts], axis=0)
            self.bias_[name] = np.mean([bias for _, bias in parts], axis=0)
        return self

    def _place_target(
        self, source: np.ndarray, known: np.ndarray, target: np.ndarray, shown: np.ndarray
    ) -> tuple[Discriminant, np.ndarray, np.ndarray, np.ndarray]:
        """Discriminant in the reduced space, its axes and centre, and the target's shift (D,)."""
        reduced, axes, centre = principal(source, target, self.components)
        weighted, n_classes = balanced(known), known.shape[1]
        wanted = class_means(source, known).sum(axis=0) / max(1, int((known.sum(axis=0) > 0).sum()))
        few = shown.sum(axis=1) > 0
        shift, start = wanted, (target - centre) @ axes
        for _ in range(ROUNDS):
            placed = start + shift @ axes
            found = fit_discriminant(reduced, weighted, self.shrinkage)
            for _ in range(STEPS):
                soft = self._posteriors(found, placed, shown, few)
                shares = (soft.mean(axis=0) + 1 / n_classes) / 2
                own = soft / (n_classes * shares) * (len(source) / len(target))
                both = np.concatenate([reduced, placed]), np.concatenate([weighted, own])
                found = fit_discriminant(*both, self.shrinkage)
            soft = self._posteriors(found, placed, shown, few)
            means = soft.T @ target / (soft.sum(axis=0) + PRIOR_CELLS)[:, None]
            shift = wanted - means.mean(axis=0)
        return found, axes, centre, shift

    @staticmethod
    def _posteriors(found: Discriminant, placed: np.ndarray, shown: np.ndarray, few: np.ndarray) -> np.ndarray:
        return np.where(few[:, None], shown, softmax(placed @ found.weight + found.bias))

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float32 posteriors. Raises UnseenDomainError for a domain that fit was not shown."""
        return self.predict_proba(cells, context).astype(np.float32)

    def predict_proba(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, K) float64, columns in the order of `classes_`; a domain unseen in fit is refused as by transform."""
        require_seen("self-trained-lda", cells, self.weight_)
        values, proba = cells.pooled.astype(np.float64), np.empty((len(cells), len(self.classes_)))
        for name in sorted(set(cells.domain.tolist())):
            rows = cells.domain == name
            proba[rows] = softmax(values[rows] @ self.weight_[name] + self.bias_[name])
        return proba


def fit_discriminant(values: np.ndarray, weight: np.ndarray, least: float) -> Discriminant:
    """The linear discriminant of (n, D) rows that belong to class k with weight (n, K), for equal priors.

    The within-class covariance S becomes (1 - a) S + a tr(S) / D I, where a estimates Ledoit and Wolf's optimum and is
    at least `least`. A class without weight is never chosen.
    """
    per_class, total = weight.sum(axis=0), weight.sum()
    means = class_means(values, weight)
    by_row = weight.sum(axis=1)
    within = ((values * by_row[:, None]).T @ values - (means * per_class[:, None]).T @ means) / total
    level = max(np.trace(within) / len(within), 1e-12)
    squared = (values**2).sum(axis=1)[:, None] - 2 * values @ means.T + (means**2).sum(axis=1)
    noise = max(((weight * squared**2).sum() / total - (within**2).sum()) / total, 0.0)
    spread = ((within - level * np.eye(len(within))) ** 2).sum()
    amount = min(1.0, max(least, noise / max(spread, 1e-300)))
    # A floor under the level keeps features that never vary from having no inverse.
    covariance = (1 - amount) * within + max(amount, 1e-6) * level * np.eye(len(within))
    found = np.linalg.solve(covariance, means.T)
    bias = -0.5 * (found * means.T).sum(axis=0)
    return Discriminant(found, np.where(per_class > 0, bias, -1e30))


def class_means(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(K, D) weighted means of (n, D) rows; 0 for a class without weight."""
    per_class = weight.sum(axis=0)[:, None]
    return weight.T @ values / np.where(per_class > 0, per_class, 1.0)


def balanced(share: np.ndarray) -> np.ndarray:
    """(n, K) memberships, scaled so that every class present weighs the same and all together n."""
    count = share.sum(axis=0)
    return share / np.where(count > 0, count, 1.0) * len(share) / max(1, int((count > 0).sum()))


def balanced_moments(values: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of (n, D) rows when every class present counts the same."""
    weight = balanced(share).sum(axis=1) / len(share)
    mean = weight @ values
    return mean, _divisor(np.sqrt(weight @ (values - mean) ** 2), mean)


def plain_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = values.mean(axis=0)
    return mean, _divisor(values.std(axis=0), mean)


def _divisor(std: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Below the resolution of float32 a spread is rounding, not signal."""
    return np.where(std <= 1e-6 * np.abs(mean) + 1e-30, 1.0, std)


def place_sources(
    values: np.ndarray, share: np.ndarray, domain: np.ndarray, trained: np.ndarray, names: list[str]
) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Labelled source rows (n, D) standardised, and of every source its mean, deviation and shift (D,) each.

    The mean of a source that lacks classes lies where those it has lie in the source with the most classes.
    """
    placed, place = np.zeros_like(values), {}
    rows_of = {name: trained & (domain == name) for name in names}
    order = sorted(names, key=lambda name: (-int(share[rows_of[name]].any(axis=0).sum()), -int(rows_of[name].sum())))
    reference = np.zeros((share.shape[1], values.shape[1]))
    for name in order:
        rows = rows_of[name]
        mean, std = balanced_moments(values[rows], share[rows])
        standard, present = (values[rows] - mean) / std, share[rows].any(axis=0)
        shift = reference[present].mean(axis=0)
        placed[rows] = standard + shift
        place[name] = mean, std, shift
        if name == order[0]:
            reference = class_means(standard, share[rows])
    return placed[trained], place


def principal(source: np.ndarray, target: np.ndarray | None, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source rows in their first principal components (n, q), the axes (D, q), and the centre (D,).

    With target rows the components are those of both, each side counting half.
    """
    sides = [source] if target is None else [source, target]
    centre = np.mean([side.mean(axis=0) for side in sides], axis=0)
    rows = np.concatenate([(side - centre) / np.sqrt(len(side)) for side in sides])
    if len(rows) < rows.shape[1]:
        values, vectors = _largest(rows @ rows.T, most)
        axes = rows.T @ vectors / np.sqrt(np.maximum(values, 1e-300))
    else:
        axes = _largest(rows.T @ rows, most)[1]
    return (source - centre) @ axes, axes, centre


def _largest(matrix: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of a symmetric matrix, ascending, and their vectors, less those that are rounding."""
    from scipy.linalg import eigh

    size = len(matrix)
    values, vectors = eigh(matrix, subset_by_index=[max(0, size - most), size - 1])
    kept = (values > values[-1] * 1e-9) | (np.arange(len(values)) == len(values) - 1)
    return values[kept], vectors[:, kept]


def unfolded(
    found: Discriminant,
    axes: np.ndarray,
    centre: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    shift: np.ndarray | float,
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (D, K) and bias (K,) on the features as they came: ((x - mean) / std + shift - centre) @ axes."""
    full = axes @ found.weight
    weight = full / std[:, None]
    return weight, found.bias + (shift - centre) @ full - mean @ weight


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def one_hot(label: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n, K) float64; a row of 0 where the label is hidden."""
    return (label[:, None] == classes).astype(np.float64)


def labelled_classes(method: str, label: np.ndarray) -> np.ndarray:
    classes = np.unique(label)
    if len(classes) < 2:
        raise CellfeatError(
            f"align {method!r} learns to tell classes apart, but the labelled cells have {len(classes)}; "
            "give a source with at least 2"
        )
    return classes


def check_parameters(components: int, shrinkage: float) -> None:
    if components < 1:
        raise CellfeatError(f"components={components} is not possible: give at least 1")
    if not 0 <= shrinkage <= 1:
        raise CellfeatError(f"shrinkage={shrinkage} is not possible: give a number from 0 to 1")
