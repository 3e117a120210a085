"""How far apart the domains in a batch are: four distances of one signature, each a term of a loss.

All take (z, domain, domains, anchor): z: (B, D) float32, outside of autocast; domain: (B,) int64 in 0..domains-1, or
equal to `domains` for a row that is padding and counts nowhere, whatever it holds; anchor: the domain that
every other one is compared with. All return a scalar, the sum over the other domains.

A domain that has too few rows in the batch has no term; if it is the anchor, the sum is 0, and so is its gradient.
Nothing here depends on values on the host, so an accelerator never waits.
"""

from __future__ import annotations

import torch
from torch import Tensor

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def domain_mean_distance(z: Tensor, domain: Tensor, domains: int, anchor: int) -> Tensor:
    """Mean squared difference between the mean code of a domain s and that of the anchor t, over D dimensions.

    distance = ||mean_s - mean_t||^2 / D. The programs of DoRL and BC-SAM call this an MMD loss; it compares first
    moments only. Departure: without cells of the anchor they return NaN.
    """
    z, members = _members(z, domain, domains)
    count, means = _means(z, members)
    return _total((means - means[anchor]).square().mean(dim=1), count >= 1, anchor)


def rbf_mmd(z: Tensor, domain: Tensor, domains: int, anchor: int) -> Tensor:
    """Squared maximum mean discrepancy of a domain and the anchor under five Gaussian kernels, biased estimator.

    Long et al., ICML 2015 (DAN); Gretton et al., JMLR 13, 2012, equation 5. For the n rows s and m rows t of the two:

        mmd = sum_ij k(s_i, s_j) / n^2 + sum_ij k(t_i, t_j) / m^2 - 2 sum_ij k(s_i, t_j) / (n m), i = j included;
        k(x, y) = sum over b in BANDWIDTHS of exp(-||x - y||^2 / (b v));
        v = mean of ||x - y||^2 over the (n + m)(n + m - 1) ordered pairs of different rows of both domains,

    without a gradient through v, and v at least the square of the number type's epsilon. Invariant to the scale of z.
    """
    z, members = _members(z, domain, domains)
    count = members.sum(dim=0)
    share = (members / count.clamp(min=1)).T
    pairs = _kernels(z, torch.maximum(members, members[:, anchor, None]).T)
    signed = share - share[anchor]
    distance = (signed[:, None] @ pairs @ signed[:, :, None]).flatten()
    return _total(distance, count >= 1, anchor)


def coral_distance(z: Tensor, domain: Tensor, domains: int, anchor: int) -> Tensor:
    """Squared difference between the covariances of a domain s and the anchor t: ||C_s - C_t||_F^2 / (4 D^2).

    Sun and Saenko, ECCV workshops 2016 (Deep CORAL), equations 1 to 3: unbiased covariances, (D, D). A domain needs
    two rows. Blind to where the domains lie.
    """
    z, members = _members(z, domain, domains)
    count, _, covariances = _moments(z, members)
    distance = (covariances - covariances[anchor]).square().mean(dim=(1, 2)) / 4
    return _total(distance, count >= 2, anchor)


def mean_covariance_distance(z: Tensor, domain: Tensor, domains: int, anchor: int) -> Tensor:
    """AE-CFE's distance: of the means, and of the covariances taken as distributions, one per column.

    For a domain s and the anchor t with P = softmax of C_s over its rows (each column sums to 1), Q that of C_t:

        distance = ||mean_s - mean_t||^2 / D + 1/2 [KL(Q || P) + KL(P || Q)], KL(Q || P) = mean of Q log(Q / P)

    over all D^2 entries, not over columns, as torch.nn.KLDivLoss reduces by default; unbiased covariances. A domain
    needs two rows: the program returns NaN for one, and here such a domain's mean is left out too.
    """
    z, members = _members(z, domain, domains)
    count, means, covariances = _moments(z, members)
    logarithm = covariances.log_softmax(dim=1)
    probability = logarithm.exp()
    # Both directions at once: their sum is (P - Q)(log P - log Q), free of the terms that would cancel.
    divergence = (probability - probability[anchor]) * (logarithm - logarithm[anchor])
    distance = (means - means[anchor]).square().mean(dim=1) + divergence.mean(dim=(1, 2)) / 2
    return _total(distance, count >= 2, anchor)


def _members(z: Tensor, domain: Tensor, domains: int) -> tuple[Tensor, Tensor]:
    """z with padding rows set to 0, so that not even NaN comes through, and (B, domains): 1 where a row belongs."""
    members = domain[:, None] == torch.arange(domains, device=domain.device)
    return torch.where(members.any(dim=1, keepdim=True), z, 0), members.to(z.dtype)


def _means(z: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Rows per domain, (K,), and mean per domain, (K, D)."""
    count = members.sum(dim=0)
    return count, members.T @ z / count.clamp(min=1)[:, None]


def _moments(z: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_means` and the unbiased covariances, (K, D, D)."""
    count, means = _means(z, members)
    centred = z - members @ means
    products = (members.T[:, :, None] * centred).mT @ centred
    return count, means, products / (count - 1).clamp(min=1)[:, None, None]


def _kernels(z: Tensor, union: Tensor) -> Tensor:
    """(K, B, B): the sum of Gaussian kernels of all rows, with the bandwidth of the rows of each (K, B) union."""
    size = union.sum(dim=1)
    # Distances do not depend on the origin; at the centre the expansion of (x - y)^2 loses the fewest digits.
    centre = (union @ z / size.clamp(min=1)[:, None]).detach()
    x = union[:, :, None] * (z - centre[:, None])
    square = x.square().sum(dim=2)
    distance = (square[:, :, None] + square[:, None, :] - 2 * x @ x.mT).clamp(min=0)
    # Rows around their mean: the mean over pairs is twice the sum of squares over n - 1.
    mean = 2 * square.detach().sum(dim=1) / (size - 1).clamp(min=1)
    scaled = distance / mean.clamp(min=torch.finfo(z.dtype).eps ** 2)[:, None, None]
    return torch.stack([torch.exp(-scaled / bandwidth) for bandwidth in BANDWIDTHS]).sum(dim=0)


def _total(distance: Tensor, present: Tensor, anchor: int) -> Tensor:
    """Sum of the (K,) distances to the anchor over the domains that are present, if the anchor is; itself it has 0."""
    return torch.where(present & present[anchor], distance, 0).sum()
