"""Visual words of pre-training: what a patch is called, what a token holds, and the losses, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cellfeat_lora_sam import pretrain_words
from cellfeat_lora_sam.pretrain_words import SIDE, STRIDE, Words, bags, bags_loss, words_loss
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def level(*values: float) -> Words:
    """Words that are flat patches of these densities: the nearest level is the word."""
    centres = torch.tensor(values)[:, None]
    return Words(torch.full((1, 3, SIDE, SIDE), 1 / (3 * SIDE**2)), centres, -centres.square().sum(1) / 2)


def test_a_token_holds_the_shares_of_its_places():
    density = torch.zeros(2, 3, 32, 32)
    density[0, :, :16, 16:] = 1.0  # the second token of the first view
    density[1, :, 16:, :] = 1.0
    shares = level(0.0, 1.0).shares(density)
    assert shares.shape == (2, 4, 2)
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 4))
    inside = shares[..., 1]
    assert inside[0, 1] > 0.7  # patches at the rim of the frame see the nothing beyond it
    assert inside[0, [0, 2, 3]].max() < 0.2
    assert inside[1, 2:].min() > 0.7
    assert inside[1, :2].max() < 0.2
    assert set((16 * shares).flatten().tolist()) <= set(range(17))


def test_the_word_is_the_nearest_centre(monkeypatch):
    """Of components in which 24 of 75 directions count, whitened by half: as found by the long way."""
    monkeypatch.setattr(pretrain_words, "WORDS", 9)
    density = functional.avg_pool2d(random(3, 3, 66, 66), 3, 1)[..., :64, :64].contiguous()
    words = Words.fitted(density, torch.ones(3, 64, 64, dtype=torch.bool), seed=1)
    assert words.filters.shape == (24, 3, SIDE, SIDE)
    assert words.centres.shape == (9, 24)
    assert words.bias.shape == (9,)
    patches = functional.unfold(density, SIDE, padding=SIDE // 2, stride=STRIDE).transpose(1, 2).flatten(0, 1).double()
    named = (patches @ words.filters.flatten(1).T.double() @ words.centres.T.double() + words.bias).argmax(1)
    counted = torch.bincount(named, minlength=9).double() / len(named)
    torch.testing.assert_close(words.shares(density).mean((0, 1)).double(), counted)
    assert counted.min() > 0.01  # no word is for nothing
    values, axes = np.linalg.eigh(np.cov((patches - patches.mean(0)).T))
    whitened = torch.from_numpy(axes[:, ::-1][:, :24].copy() / values[::-1][:24].copy() ** 0.25)
    places = (patches - patches.mean(0)) @ whitened
    signs = torch.sign((whitened.T * words.filters.flatten(1)).sum(1))  # an axis may point either way
    nearest = torch.cdist(places * signs, words.centres.double()).argmin(1)
    assert (nearest == named).double().mean() > 0.99
    means = torch.stack([places[named == word].mean(0) for word in range(9)])
    again = torch.cdist(places, means).argmin(1)
    assert (again == named).double().mean() > 0.8  # k-means stops where its words are the means of what they name


def test_words_are_found_in_cells_alone_and_follow_from_the_seed(monkeypatch):
    monkeypatch.setattr(pretrain_words, "WORDS", 4)
    density, inside = 0.1 * random(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[:, 8:24, 8:24] = True
    first, again = (Words.fitted(density, inside, 3) for _ in range(2))
    assert torch.equal(first.filters, again.filters)
    assert torch.equal(first.centres, again.centres)
    outside = density.clone()
    outside[:, :, :4] = outside[:, :, -4:] = 50.0
    assert torch.equal(Words.fitted(outside, inside, 3).filters, first.filters)
    assert not torch.equal(Words.fitted(density, ~inside, 3).filters, first.filters)


def test_bags_by_hand():
    """Four tokens: one half nucleus and half cytoplasm, one all cytoplasm, two outside."""
    shares = torch.tensor([[[1.0, 0.0], [0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]])
    cell, nucleus = torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long()
    cell[:, :2] = 1
    nucleus[:, 0, :2] = 1
    nucleus[:, 3] = 1  # beyond the cell: it does not count
    found = bags(shares, cell, nucleus)
    cytoplasm = (0.5 * 1 + 1 * 0.25) / 1.5, (0.5 * 0 + 1 * 0.75) / 1.5
    wanted = [1.0, 0.0, math.sqrt(cytoplasm[0]), math.sqrt(cytoplasm[1])]
    assert found[0].tolist() == pytest.approx(wanted)
    assert bags(shares, cell, torch.zeros_like(cell))[0, :2].tolist() == [0, 0]


def test_the_loss_of_words_by_hand():
    told = torch.zeros(2, 2, 2, 2)
    told[:, 0, 0, 0] = math.log(3)  # at the first token, three to one
    shares = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]]).expand(2, 4, 2)
    cell = torch.zeros(2, 4, 4).long()
    cell[:, :2, :2] = 1
    cell[:, 0, 2:] = 1  # half of the second token
    wanted = (-math.log(0.75) - 0.5 * math.log(0.5)) / 1.5
    both = torch.tensor([True, True])
    assert words_loss(told, shares, cell, both).item() == pytest.approx(wanted)
    told[1, 0] = 99.0
    assert words_loss(told, shares, cell, torch.tensor([True, False])).item() == pytest.approx(wanted)
    assert words_loss(told, shares, cell, ~both) == 0


def test_the_loss_of_bags_by_hand():
    told, wanted = torch.tensor([[1.0, 2.0], [9.0, 9.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert bags_loss(told, wanted, torch.tensor([True, False])).item() == 5
    assert bags_loss(told, wanted, torch.tensor([False, False])) == 0
