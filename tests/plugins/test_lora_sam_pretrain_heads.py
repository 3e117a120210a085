"""Heads and losses of pre-training, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from cellfeat_lora_sam.losses import overlap
from cellfeat_lora_sam.network import SamOutput
from cellfeat_lora_sam.pooling import pool_parts
from cellfeat_lora_sam.pretrain_heads import (
    CENTRE_DECAY,
    PROTOTYPES,
    TEACHER_TEMPERATURE,
    Heads,
    Teacher,
    agreement_loss,
    comparison_loss,
    descriptor_loss,
    mask_losses,
    pooled,
    stain_loss,
    type_loss,
)
from cellfeat_lora_sam.pretrain_views import Views
from torch import Tensor

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def views_of(cell: Tensor, canonical: Tensor | None = None, nucleus: Tensor | None = None) -> Views:
    """Of masks (B, h, w): nothing else matters to heads."""
    none = torch.zeros(len(cell), 3, 1, 1)
    canonical = torch.zeros(len(cell), 3, *cell.shape[1:]) if canonical is None else canonical
    nucleus = torch.zeros_like(cell) if nucleus is None else nucleus
    return Views(none, cell, nucleus, canonical, none)


def test_heads_answer_in_the_widths_asked_for():
    heads, tokens = Heads(8, 5, 11, 7), random(2, 8, 3, 3)
    cell = (random(2, 12, 12) > 0).long()
    nucleus = cell * (random(2, 12, 12, seed=1) > 0).long()
    vectors = pooled(tokens, views_of(cell, nucleus=nucleus))
    torch.testing.assert_close(vectors, pool_parts(tokens, cell.bool(), nucleus.bool()))
    normal = heads.norm(vectors)
    assert heads.descriptors(normal).shape == (2, 5)
    assert heads.types(normal).shape == (2, 11)
    assert heads.stain(tokens).shape == (2, 48, 3, 3)
    assert heads.words(tokens).shape == (2, 7, 3, 3)
    assert heads.bags(normal).shape == (2, 14)
    assert heads.scores(normal).shape == (2, PROTOTYPES)


@torch.no_grad()
def test_scores_are_cosines():
    heads, vectors = Heads(8, 1, 1, 1), random(3, 48)
    scores = heads.scores(vectors)
    assert scores.abs().max() <= 1
    assert scores.std() > 0.01
    place = heads.compare(vectors)
    wanted = torch.cosine_similarity(place[1], heads.prototypes[7], dim=0)
    torch.testing.assert_close(scores[1, 7], wanted)
    heads.prototypes *= 3
    torch.testing.assert_close(heads.scores(vectors), scores)


def test_the_stain_is_told_at_4_x_4_places_of_a_patch():
    """Channel 16 c + 4 i + j of a token is the density of colour c in row i and column j of its patch."""
    canonical = random(1, 3, 8, 8)
    told = torch.empty(1, 48, 2, 2)
    for channel in range(48):
        colour, (i, j) = channel // 16, divmod(channel % 16, 4)
        told[:, channel] = canonical[:, colour, i::4, j::4]
    views, photographed = views_of(torch.ones(1, 8, 8).long(), canonical), torch.tensor([True])
    assert stain_loss(told, views, photographed) == 0
    assert stain_loss(told.flip(1), views, photographed) > 0.1


def test_the_stains_loss_by_hand():
    """Errors of 0.5 inside (0.45 by smooth L1 of 0.1) and of 0.05 outside (0.0125), which counts a tenth."""
    cell = torch.zeros(2, 4, 4).long()
    cell[:, :2] = 1
    canonical = torch.where(cell.bool(), 0.5, 0.05)[:, None].expand(2, 3, 4, 4)
    views = views_of(cell, canonical)
    told = torch.zeros(2, 48, 1, 1)
    wanted = (8 * 0.45 + 8 * 0.1 * 0.0125) / (8 + 0.8)
    assert stain_loss(told, views, torch.tensor([True, True])).item() == pytest.approx(wanted)
    told[1] = 99.0  # of a drawn cell: it has no common original stain
    assert stain_loss(told, views, torch.tensor([True, False])).item() == pytest.approx(wanted)
    assert stain_loss(told, views, torch.tensor([False, False])) == 0


def test_the_descriptors_loss_by_hand():
    """Smooth L1: an error of 0.5 counts 0.125, one of 2 counts 1.5 and one of 3 counts 2.5."""
    told, measured = torch.tensor([[1.0, 2.0], [5.0, 5.0], [0.5, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1, 0]])
    wanted = (1.5 / 2 + (0.125 + 2.5) / 2) / 2
    assert descriptor_loss(told, measured, torch.tensor([True, False, True])).item() == pytest.approx(wanted)
    assert descriptor_loss(told, measured, torch.tensor([False] * 3)) == 0


def test_the_types_loss_by_hand():
    scores = torch.tensor([[math.log(3.0), 0.0], [7.0, -7.0], [0.0, 0.0]])
    loss = type_loss(scores, torch.tensor([1, -1, 0]))
    assert loss.item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    none = type_loss(scores.requires_grad_(), torch.tensor([-1, -1, -1]))
    assert none == 0
    none.backward()  # a batch of photographs alone is a batch nevertheless


def test_the_comparison_by_hand():
    scores, answers = torch.tensor([[0.1, 0.0], [0.0, 0.0]]), torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    first = -0.75 * math.log(1 / (1 + math.exp(-1))) - 0.25 * math.log(1 / (1 + math.exp(1)))
    both = torch.tensor([True, True])
    assert comparison_loss(scores, answers, both).item() == pytest.approx((first + math.log(2)) / 2)
    assert comparison_loss(scores, answers, torch.tensor([True, False])).item() == pytest.approx(first)
    assert comparison_loss(scores, answers, ~both) == 0


def test_the_agreement_by_hand():
    """Of three numbers: one that goes along (0), one that goes the other way (4), one that is unrelated (1)."""
    seen = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [3.0, 3.0, 1.0]])
    wanted = torch.tensor([[10.0, 9.0, 1.0], [30.0, 6.0, 5.0], [50.0, 3.0, 9.0]])
    every = torch.tensor([True, True, True])
    assert agreement_loss(seen, wanted, every).item() == pytest.approx(5 / 3, abs=1e-3)
    assert agreement_loss(seen, 7 * seen - 3, every).item() == pytest.approx(0, abs=1e-3)
    level = torch.full((3, 1), 4.0, requires_grad=True)
    agreement_loss(level, wanted[:, :1], every).backward()  # a number that never varies must not break the others
    assert torch.isfinite(level.grad).all()
    more, doubtful = (torch.cat((values, 99 * random(1, 3, seed=s))) for s, values in enumerate((seen, wanted)))
    assert agreement_loss(more, doubtful, torch.tensor([True, True, True, False])).item() == pytest.approx(
        5 / 3, abs=1e-3
    )
    assert agreement_loss(seen, wanted, torch.tensor([True, False, False])) == 0  # one cell correlates with nothing


def test_the_teacher_answers_sharply_and_its_centre_follows():
    teacher, scores = Teacher(CPU), 0.1 * random(4, PROTOTYPES)
    first = teacher.answers(scores)
    torch.testing.assert_close(first, (scores / TEACHER_TEMPERATURE).softmax(1))
    torch.testing.assert_close(teacher.centre, (1 - CENTRE_DECAY) * scores.mean(0))
    second = teacher.answers(scores)
    torch.testing.assert_close(
        second, ((scores - (1 - CENTRE_DECAY) * scores.mean(0)) / TEACHER_TEMPERATURE).softmax(1)
    )
    torch.testing.assert_close(teacher.centre, (1 - CENTRE_DECAY**2) * scores.mean(0))
    assert (first.amax(1) > (scores / 0.1).softmax(1).amax(1)).all()


def test_the_centre_keeps_the_teacher_from_one_answer_for_all():
    teacher, scores = Teacher(CPU), torch.zeros(2, PROTOTYPES)
    scores[:, 5] = 1.0
    assert teacher.answers(scores)[:, 5].min() > 0.9
    for _ in range(300):
        last = teacher.answers(scores)
    torch.testing.assert_close(last, torch.full_like(last, 1 / PROTOTYPES), rtol=0.1, atol=0)


# Masks


def logits_of(cell: Tensor, nucleus: Tensor) -> Tensor:
    """Sure and right: (B, 3, h, w)."""
    return 40 * (torch.stack([1 - cell, cell, nucleus], dim=1).float() - 0.5)


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


def test_losses_of_masks_by_hand():
    cell, nucleus = torch.zeros(2, 4, 4).long(), torch.zeros(2, 4, 4).long()
    cell[:, :2] = nucleus[:, :1] = 1
    views, known = views_of(cell, nucleus=nucleus), torch.tensor([True, True])
    quality = torch.tensor([[9.0, 1.0, 0.5], [9.0, 1.0, 0.5]])  # of the background: no matter
    right = numbers(mask_losses(SamOutput(cell, logits_of(cell, nucleus), quality), views, known, 2, 3))
    # where cell and nucleus are right, 1 is the quality of both: half of the squared 0.5 remains
    assert right == {"cell": pytest.approx(0, abs=1e-5), "nucleus": pytest.approx(0, abs=1e-5), "quality": 0.375}
    half = SamOutput(cell, logits_of(cell, cell), quality)  # the whole cell taken for its nucleus: an overlap of 0.5
    twice, once = (numbers(mask_losses(half, views, known, weight, 3)) for weight in (2, 1))
    assert twice["quality"] == pytest.approx(0, abs=1e-6)
    assert twice["cell"] == pytest.approx(0, abs=1e-5)
    # 4 of 16 pixels are wrong by a logit of 20; Dice of nucleus 2 * 4 / (8 + 4), of all else 2 * 8 / (8 + 12)
    cross_entropy, dice = 20 * 4 / 16, 1 - (2 * 4 / 12 + 2 * 8 / 20) / 2
    assert once["nucleus"] == pytest.approx(0.2 * cross_entropy + 0.8 * dice, rel=1e-4)
    assert twice["nucleus"] == pytest.approx(2 * once["nucleus"])


def test_masks_that_are_not_known_teach_nothing():
    logits, quality = random(3, 3, 8, 8), random(3, 3)
    cell = (random(3, 8, 8, seed=1) > 0).long()
    nucleus = cell * (random(3, 8, 8, seed=2) > 0).long()
    kept, known = torch.tensor([0, 2]), torch.tensor([True, False, True])
    some = mask_losses(SamOutput(cell, logits, quality), views_of(cell, nucleus=nucleus), known, 1, 1)
    rest = views_of(cell[kept], nucleus=nucleus[kept])
    alone = mask_losses(SamOutput(cell, logits[kept], quality[kept]), rest, known[kept], 1, 1)
    assert numbers(some) == pytest.approx(numbers(alone))
    logits.requires_grad_()
    none = mask_losses(SamOutput(cell, logits, quality), views_of(cell), torch.zeros(3, dtype=torch.bool), 1, 1)
    assert numbers(none) == {"cell": 0}
    none["cell"].backward()
    assert not logits.grad.any()


def test_overlaps_by_hand():
    masks = torch.zeros(3, 2, 2, dtype=torch.bool)
    truth = torch.zeros(3, 2, 2).long()
    masks[0, 0] = masks[1, 0] = True
    truth[0, :, 0] = 1
    assert overlap(masks, truth).tolist() == pytest.approx([1 / 3, 0, 1])
