"""The numbers of LEAD: feature space split by the classifier, pseudo-labels with a boundary per instance, losses.

Features (N, D) are of length 1 throughout; K classes; proba (N, K) are the classifier's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)  # numbers of clusters that are tried, of the number of classes
COMPONENTS = 10  # of the PCA that clusters are sought in
SILHOUETTE_CELLS = 5000  # drawn for a silhouette, whose cost grows with their square
ALPHA = 1e-4  # degrees of freedom of Student's t in the weights


class Space(NamedTuple):
    """Orthonormal rows: known (K, D), the span of the classifier's weights; unknown (D - K, D), all that is left."""

    known: torch.Tensor
    unknown: torch.Tensor

    def norms(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lengths (N,) of the features' projections on the known and on the unknown space."""
        return (features @ self.known.T).norm(dim=1), (features @ self.unknown.T).norm(dim=1)


class PseudoLabels(NamedTuple):
    """target: (N, K) one-hot, even where unknown. weight: (N,) of each in the losses. unknown: (N,) bool."""

    target: torch.Tensor
    weight: torch.Tensor
    unknown: torch.Tensor


def decompose(weight: torch.Tensor) -> Space:
    """Split the space by the left singular vectors of the transposed classifier weight (K, D), D > K."""
    vectors = torch.linalg.svd(weight.T, full_matrices=True).U.T
    return Space(vectors[: len(weight)], vectors[len(weight) :])


def count_clusters(features: np.ndarray, classes: int, seed: int) -> int:
    """C_t, the number of classes in the target: that of the k-means clusters with the best positive silhouette."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    points = PCA(min(COMPONENTS, *features.shape), random_state=seed).fit_transform(features)
    best, chosen = 0.0, classes
    for count in sorted({max(int(classes * share), 2) for share in SHARES}):
        if count >= len(points):
            break
        found = KMeans(count, n_init=1, random_state=seed).fit_predict(points)
        sample = min(SILHOUETTE_CELLS, len(points))
        picked = np.random.default_rng(seed).permutation(len(points))[:sample]
        if 1 < len(np.unique(found[picked])) < sample:
            score = silhouette_score(points[picked], found[picked])
            best, chosen = (score, count) if score > best else (best, chosen)
    return chosen


def surest(proba: torch.Tensor, clusters: int) -> torch.Tensor:
    """(K, N / C_t) rows of the highest probability of each class."""
    return proba.topk(max(1, len(proba) // clusters), dim=0).indices.T


def common_score(features: torch.Tensor, prototypes: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """(N, K): sqrt((1 - exp(-cos+(f, prototype))) exp(cos+(f, anchor) - 1)); prototypes and anchors of length 1."""
    to_target, to_source = (features @ prototypes.T).clamp(min=0), (features @ anchors.T).clamp(min=0)
    return ((1 - torch.exp(-to_target)) * torch.exp(to_source - 1)).sqrt()


def upper_mode(lengths: np.ndarray, seed: int) -> float:
    """The larger mean of a mixture of two Gaussians of (N,) lengths: that of the unknown cells."""
    from sklearn.mixture import GaussianMixture

    return float(GaussianMixture(2, random_state=seed).fit(lengths[:, None].astype(np.float64)).means_.max())


def pseudo_labels(
    features: torch.Tensor, proba: torch.Tensor, weight: torch.Tensor, space: Space, clusters: int, seed: int
) -> PseudoLabels:
    """Labels of all target cells: the class of the highest common score, or unknown beyond the boundary.

    The boundary of cell i for class c, on the length n of the projection on the unknown space: the mean of n over the
    class's surest cells, plus score(i, c) times what is left up to the upper mode. A label weighs
    1 - (1 + (n - boundary)^2 / alpha)^(-(alpha + 1) / 2): nothing on the boundary, nearly 1 away from it.
    """
    rows = surest(proba, clusters)
    prototypes = functional.normalize(features[rows].mean(dim=1), dim=1)
    score = common_score(features, prototypes, functional.normalize(weight, dim=1))
    length = space.norms(features)[1]
    prior = length[rows].mean(dim=1)
    gap = (upper_mode(length.cpu().numpy(), seed) - prior).clamp(min=0)
    best = score.argmax(dim=1)
    boundary = prior[best] + score.gather(1, best[:, None])[:, 0] * gap[best]
    unknown = length >= boundary
    target = functional.one_hot(best, len(weight)).to(proba)
    target[unknown] = 1 / len(weight)
    return PseudoLabels(target, 1 - (1 + (length - boundary) ** 2 / ALPHA) ** (-(ALPHA + 1) / 2), unknown)


def pseudo_loss(logits: torch.Tensor, labels: PseudoLabels) -> torch.Tensor:
    """Weighted cross-entropy to the pseudo-labels of the batch."""
    return -(labels.weight * (labels.target * logits.log_softmax(1)).sum(1)).mean()


def split_loss(features: torch.Tensor, space: Space, labels: PseudoLabels) -> torch.Tensor:
    """Weighted cross-entropy between softmax(known length, unknown length) and known or unknown."""
    losses = functional.cross_entropy(torch.stack(space.norms(features), 1), labels.unknown.long(), reduction="none")
    return (labels.weight * losses).mean()


def neighbour_loss(
    features: torch.Tensor, logits: torch.Tensor, bank: torch.Tensor, bank_proba: torch.Tensor, neighbours: int
) -> torch.Tensor:
    """Cross-entropy to the mean probabilities of the nearest cells in the bank, the very nearest, itself, left out."""
    with torch.no_grad():
        nearest = (features @ bank.T).topk(min(neighbours + 1, len(bank)), dim=1).indices[:, 1:]
        wanted = bank_proba[nearest].mean(dim=1)
    return -(wanted * logits.log_softmax(1)).sum(1).mean()
