"""The CORAL loss of Sun and Saenko: how far two batches' covariances are apart."""

from __future__ import annotations

import torch


def covariance(values: torch.Tensor) -> torch.Tensor:
    """(B, d) -> (d, d), with B - 1 below; B is at least 2. Equations 2 and 3 of the paper."""
    centred = values - values.mean(dim=0)
    return centred.T @ centred / (len(values) - 1)


def coral_loss(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B, d) and (b, d) -> ||C_S - C_T||^2 / (4 d^2), the squared Frobenius norm. Equation 1 of the paper."""
    width = source.shape[1]
    return (covariance(source) - covariance(target)).square().sum() / (4 * width**2)
