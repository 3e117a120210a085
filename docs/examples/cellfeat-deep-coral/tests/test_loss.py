"""The CORAL loss against numbers worked out by hand, and its gradient against the paper's equations."""

from __future__ import annotations

import pytest
import torch
from cellfeat_deep_coral.loss import coral_loss, covariance

# Columns (0, 2, 4) and (0, 6, 0): means 2 and 2, variances (4 + 0 + 4) / 2 = 4 and (4 + 16 + 4) / 2 = 12, covariance
# (4 + 0 - 4) / 2 = 0.
SOURCE = torch.tensor([[0.0, 0.0], [2.0, 6.0], [4.0, 0.0]], dtype=torch.float64)
# Columns (1, 3) and (5, 1): means 2 and 3, variances 1 + 1 = 2 and 4 + 4 = 8, covariance -1 * 2 + 1 * -2 = -4.
TARGET = torch.tensor([[1.0, 5.0], [3.0, 1.0]], dtype=torch.float64)


def test_covariances_and_loss_are_those_worked_out_by_hand():
    assert covariance(SOURCE).tolist() == [[4, 0], [0, 12]]
    assert covariance(TARGET).tolist() == [[2, -4], [-4, 8]]
    # The difference is [[2, 4], [4, 4]]: 4 + 16 + 16 + 16 = 52, divided by 4 * 2^2.
    assert coral_loss(SOURCE, TARGET).item() == 52 / 16


def test_means_do_not_matter_and_equal_batches_cost_nothing():
    moved = SOURCE + torch.tensor([100.0, -7.0])
    assert coral_loss(moved, TARGET).item() == pytest.approx(52 / 16)
    assert coral_loss(SOURCE, SOURCE[[2, 0, 1]]).item() == 0


def test_the_gradient_is_the_papers_and_that_of_differences():
    """Equations 4 and 5: (centred D)^T (C_S - C_T) / (d^2 (n - 1)), with a minus for the target."""
    source, target = (batch.clone().requires_grad_() for batch in (SOURCE, TARGET))
    coral_loss(source, target).backward()
    difference = torch.tensor([[2.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    for batch, sign in ((source, 1), (target, -1)):
        centred = batch.detach() - batch.detach().mean(dim=0)
        torch.testing.assert_close(batch.grad, sign * centred @ difference / (4 * (len(batch) - 1)))
    assert torch.autograd.gradcheck(coral_loss, (source, target))
