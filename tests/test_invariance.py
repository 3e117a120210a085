"""How well domains are told apart: what each classifier sees, and where no honest number can be given."""

from __future__ import annotations

import numpy as np
import pytest

from cellfeat.components import compressed
from cellfeat.feature_figures import Embedded, Side, embeddings, invariance
from cellfeat.invariance import Untold, domain_classifiers
from cellfeat.observation_files import Sample


def test_domains_that_differ_in_their_mean_are_found_by_both_classifiers_and_islands_by_neighbours_alone():
    rng = np.random.default_rng(0)
    noise, domain = rng.normal(size=(400, 2)), np.repeat(["a", "b"], 200)
    same = domain_classifiers(noise, domain)
    assert same.chance == 0.5
    assert same.cells == 400
    assert same.linear.low < 0.5
    assert same.neighbours.low < 0.55
    apart = domain_classifiers(noise + 4 * (domain == "b")[:, None], domain)
    assert apart.linear.accuracy > 0.95 < apart.neighbours.accuracy
    islands = noise * np.where(domain == "a", 0.2, 1)[:, None]
    islands[domain == "b"] += 6 * np.sign(rng.normal(size=(200, 1)))
    found = domain_classifiers(islands, domain)
    assert found.linear.accuracy < 0.85  # one island lies beyond any line
    assert found.neighbours.accuracy > 0.95
    for few in (np.full(400, "a"), np.where(np.arange(400) < 9, "b", "a")):
        told = domain_classifiers(noise, few)
        assert (told.accuracy, told.reason) == (None, "fewer than two laboratories have 10 cells in the sample")


def test_neighbours_of_a_small_domain_are_not_outvoted_by_a_large_one():
    rng = np.random.default_rng(0)
    domain = np.repeat(["large", "small"], [900, 100])
    found = domain_classifiers(rng.normal(size=(1000, 2)) + (domain == "small")[:, None], domain)
    assert found.neighbours.accuracy > 0.65


def test_islands_are_found_among_many_components_of_noise():
    rng = np.random.default_rng(0)
    domain = np.repeat(["a", "b"], 300)
    values = rng.normal(size=(600, 256)) * np.linspace(1, 0.2, 256)  # a falling spectrum
    angle = rng.choice(4, 600) * np.pi / 2 + np.where(domain == "b", np.pi / 4, 0)
    values[:, :2] += 6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = domain_classifiers(compressed(values, 0).values, domain)
    assert found.linear.accuracy < 0.6
    assert found.neighbours.accuracy > 0.85


def apart(domains=3, cells=60):
    domain = np.repeat([f"d{number}" for number in range(domains)], cells)
    shift = 8 * np.eye(domains)[np.unique(domain, return_inverse=True)[1]]
    return np.random.default_rng(0).normal(size=(len(domain), domains)) + shift, domain


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_folds_are_no_more_than_the_groups_of_any_domain(groups):
    values, domain = apart()
    group = np.array([f"{name}-{number % (groups if name == 'd0' else 20)}" for number, name in enumerate(domain)])
    found = domain_classifiers(values, domain, group)
    assert found.folds == min(groups, 5)
    assert found.linear.accuracy == found.neighbours.accuracy == 1


def test_a_domain_of_one_group_leaves_no_number_and_the_reason():
    for domains in (2, 3):
        values, domain = apart(domains)
        group = np.array([name if name == "d0" else f"{name}-{number % 8}" for number, name in enumerate(domain)])
        told = domain_classifiers(values, domain, group)
        assert told.accuracy is None
        assert "all sampled cells of d0 belong to one group" in told.reason


def test_a_domain_left_out_of_a_model_by_groups_of_several_domains_leaves_no_number():
    values, domain = apart(5)
    number = np.arange(len(domain)) % 60
    group = np.where(domain == "d0", np.where(number < 30, "a", "b"), np.array(["a", "b", "c", "c"])[number % 4])
    told = domain_classifiers(values, domain, group)
    assert isinstance(told, Untold)
    assert "groups (patients or slides) that are in several laboratories" in told.reason


def test_where_there_is_no_number_figures_say_why():
    values, domain = apart(2)
    known, told = domain_classifiers(values, domain), Untold("every cell is of one patient")
    sample = Sample(domain, domain, domain, domain, values.astype(np.float32))
    embedded = Embedded(sample, values, 120)
    caption = embeddings(Side("after", embedded, told), ["d0", "d1"], "tsne").caption
    assert caption.endswith("How well the laboratory is found in them is not told: every cell is of one patient.")
    figure = invariance({"before": known, "after": told})
    assert len(figure.numbers.rows) == 1
    assert figure.caption.endswith(" There is no number for after: every cell is of one patient.")
    assert invariance({"after": told}) is None
