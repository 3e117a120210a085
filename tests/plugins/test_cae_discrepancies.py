"""The distances between domains that an autoencoder is trained with, against the formulas written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cellfeat_cae.discrepancies import coral_distance, domain_mean_distance, mean_covariance_distance, rbf_mmd

DISTANCES = (domain_mean_distance, rbf_mmd, coral_distance, mean_covariance_distance)
NEEDS_TWO_ROWS = (coral_distance, mean_covariance_distance)
DOMAIN = [1, 0, 2, 0, 1, 2, 0, 1, 0, 2, 2]
DOMAINS = 3

every_distance = pytest.mark.parametrize("distance", DISTANCES)


def cells(seed: int = 0, shift: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    """11 rows of 3 numbers, float64, whose three domains differ in place and spread."""
    domain = torch.tensor(DOMAIN)
    z = torch.randn(len(domain), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z * (1 + 0.4 * domain[:, None]) + shift * domain[:, None], domain


def value_and_gradient(distance, z, domain, domains=DOMAINS, anchor=0) -> tuple[float, torch.Tensor]:
    z = z.clone().requires_grad_()
    value = distance(z, domain, domains, anchor)
    assert value.shape == ()
    value.backward()
    return value.item(), z.grad


# The formulas, one pair of domains at a time ---------------------------------------------------------------------


def mean_pair(s, t):
    return sum((s[:, d].mean() - t[:, d].mean()) ** 2 for d in range(s.shape[1])) / s.shape[1]


def covariance(x):
    n, dimensions = x.shape
    result = np.zeros((dimensions, dimensions))
    for i in range(dimensions):
        for j in range(dimensions):
            result[i, j] = sum((row[i] - x[:, i].mean()) * (row[j] - x[:, j].mean()) for row in x) / (n - 1)
    return result


def coral_pair(s, t):
    return ((covariance(s) - covariance(t)) ** 2).sum() / (4 * s.shape[1] ** 2)


def mean_covariance_pair(s, t):
    p, q = (np.exp(covariance(x)) / np.exp(covariance(x)).sum(axis=0) for x in (s, t))
    there, back = (q * np.log(q / p)).mean(), (p * np.log(p / q)).mean()
    return mean_pair(s, t) + (there + back) / 2


def bandwidth(s, t):
    rows = np.concatenate([s, t])
    distances = [((x - y) ** 2).sum() for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    return np.mean(distances)


def mmd_pair(s, t, unit=None):
    unit = bandwidth(s, t) if unit is None else unit

    def mean_kernel(a, b):
        total = 0.0
        for x in a:
            for y in b:
                total += sum(np.exp(-((x - y) ** 2).sum() / (2.0**power * unit)) for power in range(-2, 3))
        return total / (len(a) * len(b))

    return mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t)


PAIRS = {
    domain_mean_distance: mean_pair,
    rbf_mmd: mmd_pair,
    coral_distance: coral_pair,
    mean_covariance_distance: mean_covariance_pair,
}


def by_formula(distance, z, anchor, units=None) -> float:
    """units: for rbf_mmd the bandwidth of every domain, held fixed while a gradient is taken."""
    parts = [z[np.array(DOMAIN) == number] for number in range(DOMAINS)]
    total = 0.0
    for number, part in enumerate(parts):
        if number == anchor:
            continue
        given = () if units is None else (units[number],)
        total += PAIRS[distance](part, parts[anchor], *given)
    return total


@every_distance
@pytest.mark.parametrize("anchor", [0, 2])
def test_value_is_the_formulas(distance, anchor):
    z, domain = cells()
    expected = by_formula(distance, z.numpy(), anchor)
    assert distance(z, domain, DOMAINS, anchor).item() == pytest.approx(expected, rel=1e-12)
    assert distance(z.float(), domain, DOMAINS, anchor).item() == pytest.approx(expected, rel=1e-5)


@every_distance
def test_gradient_is_the_formulas_slope(distance):
    z, domain = cells()
    _, gradient = value_and_gradient(distance, z, domain, anchor=1)
    units = None
    if distance is rbf_mmd:  # no gradient goes through the bandwidths
        parts = [z.numpy()[np.array(DOMAIN) == number] for number in range(DOMAINS)]
        units = [bandwidth(part, parts[1]) for part in parts]
    step, expected = 1e-5, np.zeros(z.shape)
    for index in np.ndindex(*z.shape):
        values = []
        for sign in (1, -1):
            moved = z.numpy().copy()
            moved[index] += sign * step
            values.append(by_formula(distance, moved, 1, units))
        expected[index] = (values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_domain_mean_distance_compares_with_the_anchor_only():
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [1.0, 2.0]])
    domain = torch.tensor([0, 0, 1, 2])
    # anchor's mean (1, 0): to (4, 0) it is 9 / 2, to (1, 2) it is 4 / 2
    assert domain_mean_distance(z, domain, 3, 0).item() == pytest.approx(4.5 + 2)
    assert domain_mean_distance(z, domain, 3, 1).item() == pytest.approx(4.5 + (9 + 4) / 2)


# What is absent ---------------------------------------------------------------------------------------------------


@every_distance
def test_a_missing_domain_has_no_term(distance):
    z, domain = cells()
    here = domain < 2
    value, gradient = value_and_gradient(distance, z[here], domain[here], DOMAINS)
    expected, slope = value_and_gradient(distance, z[here], domain[here], DOMAINS - 1)
    assert value == pytest.approx(expected, rel=1e-12)
    assert value == pytest.approx(PAIRS[distance](z[domain == 0].numpy(), z[domain == 1].numpy()), rel=1e-12)
    torch.testing.assert_close(gradient, slope)


@every_distance
def test_without_the_anchor_there_is_nothing_to_learn(distance):
    z, domain = cells()
    here = domain != 0
    value, gradient = value_and_gradient(distance, z[here], domain[here], anchor=0)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every_distance
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_with_one_domain_or_no_rows_there_is_nothing_to_learn(distance, rows):
    z, domain = torch.randn(rows, 3), torch.zeros(rows, dtype=torch.int64)
    for domains in (1, 2):
        value, gradient = value_and_gradient(distance, z, domain, domains)
        assert value == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("distance", NEEDS_TWO_ROWS)
@pytest.mark.parametrize("single", [0, 1])
def test_one_row_has_no_covariance_and_no_term(distance, single):
    z, domain = cells()
    several = domain != single
    several[(domain == single).nonzero()[0]] = True
    value, gradient = value_and_gradient(distance, z[several], domain[several], anchor=0)
    if single == 0:  # the anchor
        assert value == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))
    else:
        without = domain != single
        assert value == pytest.approx(distance(z[without], domain[without], DOMAINS, 0).item(), rel=1e-12)
        assert value > 0
        assert gradient.isfinite().all()


@pytest.mark.parametrize("distance", [domain_mean_distance, rbf_mmd])
def test_one_row_has_a_place(distance):
    z = torch.tensor([[0.0, 1.0], [3.0, 1.0]])
    value, gradient = value_and_gradient(distance, z, torch.tensor([0, 1]))
    expected = {domain_mean_distance: 4.5, rbf_mmd: 2 * 5 - 2 * sum(np.exp(-(2.0**i)) for i in range(-2, 3))}
    assert value == pytest.approx(expected[distance], rel=1e-6)
    assert gradient.isfinite().all()
    if distance is domain_mean_distance:
        assert gradient.tolist() == [[-3, 0], [3, 0]]


@every_distance
@pytest.mark.parametrize("filling", [0.0, 1e6, float("nan"), float("inf")])
def test_padding_rows_count_nowhere(distance, filling):
    z, domain = cells()
    expected, slope = value_and_gradient(distance, z, domain)
    padded = torch.cat([z[:4], torch.full((5, 3), filling, dtype=z.dtype), z[4:]])
    where = torch.cat([domain[:4], torch.full((5,), DOMAINS), domain[4:]])
    value, gradient = value_and_gradient(distance, padded, where)
    assert value == pytest.approx(expected, rel=1e-12)
    assert torch.equal(gradient[4:9], torch.zeros(5, 3, dtype=z.dtype))
    torch.testing.assert_close(gradient[where < DOMAINS], slope)


# Properties -------------------------------------------------------------------------------------------------------


@every_distance
def test_two_domains_are_as_far_from_one_another(distance):
    z, domain = cells()
    here = domain < 2
    there, back = (distance(z[here], domain[here], 2, anchor).item() for anchor in (0, 1))
    assert there == pytest.approx(back, rel=1e-12)
    assert there > 1e-4


@every_distance
def test_the_order_of_rows_and_a_common_shift_do_not_matter(distance):
    z, domain = cells()
    value = distance(z, domain, DOMAINS, 0).item()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(1))
    assert distance(z[order], domain[order], DOMAINS, 0).item() == pytest.approx(value, rel=1e-12)
    assert distance(z + 100, domain, DOMAINS, 0).item() == pytest.approx(value, rel=1e-9)
    assert distance(z.float() + 100, domain, DOMAINS, 0).item() == pytest.approx(value, rel=1e-3)


@every_distance
def test_identical_sets_are_at_no_distance(distance):
    z, _ = cells()
    twice, domain = torch.cat([z, z]), torch.arange(2).repeat_interleave(len(z))
    value, gradient = value_and_gradient(distance, twice, domain, domains=2)
    assert value == pytest.approx(0, abs=1e-14)
    assert float(gradient.abs().max()) < 1e-14


@every_distance
def test_a_collapsed_code_gives_zero_and_no_nan(distance):
    for constant in (0.0, 0.1, 3e4):
        z = torch.full((len(DOMAIN), 3), constant)
        value, gradient = value_and_gradient(distance, z, torch.tensor(DOMAIN))
        assert value == pytest.approx(0, abs=1e-6 * max(1, constant**2))
        assert gradient.isfinite().all()


def test_only_a_shift_is_seen_by_the_means_and_only_a_spread_by_coral():
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = z - z.mean(dim=0)
    domain = torch.arange(2).repeat_interleave(len(z))
    shifted, spread = torch.cat([z, z + 1]), torch.cat([z, 2 * z])
    assert domain_mean_distance(shifted, domain, 2, 0).item() == pytest.approx(1)
    assert coral_distance(shifted, domain, 2, 0).item() == pytest.approx(0, abs=1e-14)
    assert domain_mean_distance(spread, domain, 2, 0).item() == pytest.approx(0, abs=1e-14)
    assert coral_distance(spread, domain, 2, 0).item() > 0.1
    for sees_both in (rbf_mmd, mean_covariance_distance):
        assert sees_both(shifted, domain, 2, 0).item() > 0.01
        assert sees_both(spread, domain, 2, 0).item() > 0.01


def test_mmd_does_not_depend_on_the_scale():
    z, domain = cells()
    value = rbf_mmd(z, domain, DOMAINS, 0).item()
    assert rbf_mmd(1e-3 * z, domain, DOMAINS, 0).item() == pytest.approx(value, rel=1e-9)
    assert rbf_mmd(1e3 * z, domain, DOMAINS, 0).item() == pytest.approx(value, rel=1e-9)


@every_distance
def test_no_value_is_fetched_from_the_device(distance):
    """On the device "meta" there are no values, so that whatever asks for one raises."""
    z = torch.empty(8, 3, device="meta", requires_grad=True)
    value = distance(z, torch.empty(8, dtype=torch.int64, device="meta"), DOMAINS, 1)
    value.backward()
    assert z.grad.shape == z.shape
