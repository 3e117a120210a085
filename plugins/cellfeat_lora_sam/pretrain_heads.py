"""What is asked of the tokens during pre-training, beside masks; thrown away afterwards.

Linear heads where a linear classifier shall find the same later: descriptors and the drawn type from the pooled parts,
the original stain from every token. One deeper head compares views of a cell with a momentum teacher's, as in DINO
(Caron et al., 2021, arXiv 2104.14294), on pooled parts instead of a class token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellfeat_lora_sam.losses import overlap, segmentation_loss
from cellfeat_lora_sam.network import SamOutput, small_masks
from cellfeat_lora_sam.pooling import pool_parts
from cellfeat_lora_sam.pretrain_pool import NO_TYPE
from cellfeat_lora_sam.pretrain_views import Views

PATCH_SAMPLES = 4  # the original stain is told at 4 x 4 places of a patch
OUTSIDE = 0.1  # weight of a token outside the cell when the stain is told
PROTOTYPES, BOTTLENECK, HIDDEN = 1024, 128, 512
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05
CENTRE_DECAY = 0.98


class Heads(nn.Module):
    """Heads on tokens (B, C, h, w) and pooled parts (B, 6C)."""

    def __init__(self, width: int, descriptors: int, types: int, words: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6 * width)
        self.descriptors = nn.Linear(6 * width, descriptors)
        self.types = nn.Linear(6 * width, types)
        self.stain = nn.Conv2d(width, 3 * PATCH_SAMPLES**2, kernel_size=1)
        self.words = nn.Conv2d(width, words, kernel_size=1)
        self.bags = nn.Linear(6 * width, 2 * words)
        self.compare = nn.Sequential(
            nn.Linear(6 * width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK)
        )
        for head in (self.descriptors, self.types, self.bags):
            nn.init.zeros_(head.weight)  # chance would be added up over a thousand numbers
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, BOTTLENECK))

    def scores(self, pooled: Tensor) -> Tensor:
        """Normalised (B, 6C) -> (B, prototypes): cosines."""
        place = functional.normalize(self.compare(pooled).float(), dim=1)
        return place @ functional.normalize(self.prototypes, dim=1).T


def pooled(tokens: Tensor, views: Views) -> Tensor:
    """(B, 6C): means and deviations over cell, nucleus and cytoplasm of the given masks, as a user gets them."""
    return pool_parts(tokens.float(), views.cell.bool(), views.nucleus.bool())


def agreement_loss(seen: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """How badly each pooled number, (B, D), agrees between views of the same cells: mean over D of (1 - correlation)².

    The first term of Barlow Twins (Zbontar et al., 2021, arXiv 2103.03230), but on the very numbers that a classifier
    gets: one that follows the stain rather than the cell misleads it in the next laboratory. What keeps the numbers
    from all saying the same are the other losses, not the second term, which asks for batches that a CPU has not.

    counted: (B,) bool; of a cell whose mask is not known, nobody can say what was pooled. 0 for fewer than two.
    """
    if counted.sum() < 2:
        return seen.sum() * 0
    seen, wanted = seen[counted], wanted[counted]
    return (1 - (_standardised(seen.float()) * _standardised(wanted.float())).mean(dim=0)).square().mean()


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(dim=0)) / (values.std(dim=0, correction=0) + 1e-4)


def stain_loss(told: Tensor, views: Views, counted: Tensor) -> Tensor:
    """Smooth L1 of the told optical densities (B, 48, h, w) against the original ones, mostly inside the cell.

    counted: (B,) bool, the views of photographs: drawn cells have no common original stain.
    """
    told = functional.pixel_shuffle(told.float(), PATCH_SAMPLES)
    weight = views.cell.float().clamp(min=OUTSIDE)[:, None] * counted[:, None, None, None]
    error = functional.smooth_l1_loss(told, views.canonical, reduction="none", beta=0.1)
    return (error * weight).sum() / (3 * weight.sum()).clamp(min=1)


def descriptor_loss(told: Tensor, measured: Tensor, counted: Tensor) -> Tensor:
    """Huber's error of (B, D) descriptors on the rows that are counted (B,): some cells were measured badly."""
    error = functional.smooth_l1_loss(told.float(), measured, reduction="none").mean(dim=1) * counted
    return error.sum() / counted.sum().clamp(min=1)


def type_loss(scores: Tensor, drawn: Tensor) -> Tensor:
    """Cross-entropy of (B, types) on the drawn cells; 0 in a batch without any."""
    if not bool((drawn >= 0).any()):
        return scores.sum() * 0
    return functional.cross_entropy(scores.float(), drawn, ignore_index=NO_TYPE)


class Teacher:
    """The centre of the teacher's scores, and its answers: sharpened after centring, against collapse."""

    def __init__(self, device: torch.device) -> None:
        self.centre = torch.zeros(PROTOTYPES, device=device)

    @torch.no_grad()
    def answers(self, scores: Tensor) -> Tensor:
        """(B, prototypes) scores -> probabilities; moves the centre."""
        chance = ((scores - self.centre) / TEACHER_TEMPERATURE).softmax(dim=1)
        self.centre.lerp_(scores.mean(dim=0), 1 - CENTRE_DECAY)
        return chance


def comparison_loss(scores: Tensor, answers: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of the student's scores (B, P) against the teacher's answers (B, P) on the counted rows (B,)."""
    error = -(answers * (scores / STUDENT_TEMPERATURE).log_softmax(dim=1)).sum(dim=1)
    return (error * counted).sum() / counted.sum().clamp(min=1)


def mask_losses(
    output: SamOutput, batch: Views, known: Tensor, nucleus_weight: float, quality_weight: float
) -> dict[str, Tensor]:
    """Losses of cell, nucleus and of the predicted quality of both, where the mask is known."""
    if not bool(known.any()):
        return {"cell": output.logits.sum() * 0}
    logits, cell, nucleus = output.logits.float()[known], batch.cell[known], batch.nucleus[known]
    binary = torch.stack((torch.zeros_like(logits[:, 2]), logits[:, 2]), dim=1)
    with torch.no_grad():
        seen = small_masks(logits)
        found = torch.stack([overlap(seen[0], cell), overlap(seen[1], nucleus)], dim=1)
    quality = functional.mse_loss(output.quality.float()[known, 1:], found)
    return {
        "cell": segmentation_loss(logits[:, :2], cell).loss,
        "nucleus": nucleus_weight * segmentation_loss(binary, nucleus).loss,
        "quality": quality_weight * quality,
    }
