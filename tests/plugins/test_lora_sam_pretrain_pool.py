"""The cells to pre-train on: drawn ones, photographs with masks and descriptors, and what is kept between starts."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from cellfeat_classical.classical import Classical
from cellfeat_lora_sam import pretrain_pool
from cellfeat_lora_sam.checkpoints import build_network, read_weights, save_weights
from cellfeat_lora_sam.network import SamNetwork
from cellfeat_lora_sam.pretrain_masks import segment_by, segment_with
from cellfeat_lora_sam.pretrain_pool import Pool, Segment, drawn_pool, photographed_pool, recovered_pool, saved_or_made
from cellfeat_lora_sam.sizes import BUILDS
from helpers import with_nucleus
from PIL import Image
from pretraining import QUICK, drawn_cells

from cellfeat import CellfeatError, synthetic

pytestmark = pytest.mark.usefixtures("one_thread")


def same(first: Pool, second: Pool) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


# Drawn cells


def test_drawn_cells_are_what_the_pool_promises(context):
    pool = drawn_pool(3, 4, 48, 64, 5, context)
    assert (pool.images.shape, pool.images.dtype) == ((4, 64, 64, 3), torch.uint8)
    assert (pool.masks.shape, pool.masks.dtype) == ((4, 64, 64), torch.uint8)
    assert set(pool.masks.unique().tolist()) == {0, 128, 255}  # not blurred by the resizing
    assert pool.known.tolist() == [True] * 4
    assert (pool.drawn.min() >= 0, pool.drawn.max() < len(synthetic.ALL_TYPES)) == (True, True)
    assert pool.descriptors.shape == (4, 5)
    assert not pool.descriptors.any()
    assert not pool.described.any()
    empty = pool.images[0].reshape(-1, 3).float().quantile(0.95, dim=0)
    torch.testing.assert_close(pool.light[0], empty, rtol=0, atol=6)


def test_drawn_cells_follow_from_seed_and_index(context):
    pool = drawn_pool(3, 4, 64, 64, 1, context)
    assert same(pool, drawn_pool(3, 4, 64, 64, 1, context))
    assert same(Pool(*(values[:2] for values in pool)), drawn_pool(3, 2, 64, 64, 1, context))
    assert not torch.equal(pool.images, drawn_pool(4, 4, 64, 64, 1, context).images)
    assert len({image.numpy().tobytes() for image in pool.images}) == 4
    # by hand, for the type: the first number of each cell's own generator
    kinds = [int(np.random.default_rng((3, i)).integers(len(synthetic.ALL_TYPES))) for i in range(4)]
    assert pool.drawn.tolist() == kinds


def test_processes_draw_what_one_draws(context, monkeypatch):
    alone = drawn_cells(context)
    monkeypatch.setattr(pretrain_pool, "FEW_ROWS", 2)
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 2)
    assert same(drawn_cells(context), alone)


# Photographs


@pytest.fixture
def photographs(tmp_path) -> tuple[list, list[synthetic.SyntheticCell]]:
    rng = np.random.default_rng(1)
    cells = [synthetic.draw_cell(synthetic.CLASSES[i % 5], "lab-a", rng, size=64) for i in range(18)]
    paths = [tmp_path / f"{index:02d}.png" for index in range(18)]
    for cell, path in zip(cells, paths, strict=True):
        Image.fromarray(cell.image).save(path)
    return paths, cells


def knowing(cells: list[synthetic.SyntheticCell], trusted: list[bool], spilled: bool = False) -> Segment:
    """A segmenter that knows every image by its pixels; spilled: its nuclei reach beyond the cell."""
    truth = {cell.image.tobytes(): (cell.mask, trust) for cell, trust in zip(cells, trusted, strict=True)}

    def masks(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        assert images.dtype == torch.uint8
        assert len(images) <= pretrain_pool.SEGMENTED_AT_ONCE
        found = [truth[image.permute(1, 2, 0).contiguous().numpy().tobytes()] for image in images]
        mask = torch.from_numpy(np.stack([one for one, _ in found]))
        nucleus = mask == 255
        return mask > 0, nucleus | (mask == 0) if spilled else nucleus, torch.tensor([trust for _, trust in found])

    return Segment(masks, on_cpu=True)


def test_photographs_have_masks_trust_and_descriptors_where_trusted(photographs, context):
    paths, cells = photographs
    trusted = [index % 3 > 0 for index in range(18)]
    pool = photographed_pool(paths, 64, knowing(cells, trusted), context)
    assert torch.equal(pool.images, torch.from_numpy(np.stack([cell.image for cell in cells])))
    assert torch.equal(pool.masks, torch.from_numpy(np.stack([cell.mask for cell in cells])))
    assert pool.known.tolist() == pool.described.tolist() == trusted
    assert pool.drawn.tolist() == [-1] * 18
    assert pool.descriptors.shape[0] == 18
    assert pool.descriptors[~pool.known].eq(0).all()
    told = pool.descriptors[pool.known]
    assert told.square().mean().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(told.mean(0), torch.zeros(told.shape[1]), rtol=0, atol=1e-3)
    assert len(told.unique(dim=0)) == 12  # each has its own
    empty = pool.images[0].reshape(-1, 3).float().quantile(0.95, dim=0)
    torch.testing.assert_close(pool.light[0], empty, rtol=0, atol=6)
    assert "masks of 12 of 18 photographs can be trusted" in context.reporter.notes


def test_a_nucleus_lies_in_its_cell_and_a_cell_without_one_is_not_trusted(photographs, context):
    paths, cells = photographs
    cells = [*cells[:4], *(cell._replace(mask=np.minimum(cell.mask, 128)) for cell in cells[4:])]
    pool = photographed_pool(paths, 64, knowing(cells, [True] * 18, spilled=True), context)
    assert torch.equal(pool.masks[:4], torch.from_numpy(np.stack([cell.mask for cell in cells[:4]])))
    assert pool.known.tolist() == [True] * 4 + [False] * 14


def test_too_few_trusted_masks_are_an_error(photographs, context):
    paths, cells = photographs
    with pytest.raises(CellfeatError, match="1 of 18 masks can be trusted; pre-training needs 2 at least"):
        photographed_pool(paths, 64, knowing(cells, [True] + [False] * 17), context)


def test_masks_that_could_not_be_trusted_are_recovered_and_others_kept(photographs, context):
    paths, cells = photographs
    pool = photographed_pool(paths[:6], 64, knowing(cells, [True, False, True, False, True, False] * 3), context)
    other = [cell._replace(mask=np.rot90(cell.mask).copy()) for cell in cells]
    now = recovered_pool(pool, knowing(other, [index != 3 for index in range(18)]), context)
    assert now.known.tolist() == [True, True, True, False, True, True]
    assert torch.equal(now.masks[::2], pool.masks[::2])
    assert torch.equal(now.masks[1::2], torch.from_numpy(np.stack([cell.mask for cell in other[1:6:2]])))
    for name in ("images", "light", "drawn", "descriptors", "described"):
        assert torch.equal(getattr(now, name), getattr(pool, name)), name
    assert pool.known.tolist() == [True, False] * 3  # nothing that was handed in is changed
    assert "masks of 2 of the other 3 photographs were recovered by the network itself" in context.reporter.notes
    done = pool._replace(known=torch.ones(6, dtype=torch.bool))
    assert same(recovered_pool(done, knowing(other, [True] * 18), context), done)


def test_a_pool_is_made_once_and_kept(tmp_path, context):
    path, calls = tmp_path / "pool.safetensors", []

    def make() -> Pool:
        calls.append(1)
        return drawn_cells(context)

    first = saved_or_made(path, make)
    assert same(first, drawn_cells(context))
    assert same(saved_or_made(path, make), first)
    assert len(calls) == 1


def test_a_pool_that_could_not_be_made_leaves_nothing(tmp_path):
    def fail() -> Pool:
        raise CellfeatError("no")

    with pytest.raises(CellfeatError):
        saved_or_made(tmp_path / "pool.safetensors", fail)
    assert list(tmp_path.iterdir()) == []


# Where masks come from


def test_the_classical_segmenter_gives_cells_nuclei_and_trust(photographs):
    images = torch.from_numpy(np.stack([photographs[1][0].image, np.full((64, 64, 3), 200, np.uint8)]))
    images = images.permute(0, 3, 1, 2)
    segment = segment_by(Classical(), "classical")
    assert segment.on_cpu
    cell, nucleus, trusted = segment.masks(images)
    assert all(torch.equal(a, b) for a, b in zip((cell, nucleus), Classical().cells_and_nuclei(images), strict=True))
    assert nucleus[0].any()
    assert trusted.tolist() == [True, False]


def test_processes_can_be_handed_a_segmenter(photographs):
    """Where processes do not begin as copies of their parent, all that they need is pickled."""
    images = torch.from_numpy(photographs[1][0].image).permute(2, 0, 1)[None]
    segment = segment_by(Classical(), "classical")
    for first, second in zip(segment.masks(images), pickle.loads(pickle.dumps(segment)).masks(images), strict=True):
        assert torch.equal(first, second)


class OnlyCells:
    def segment(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0] > 0


class WithoutOpinion(OnlyCells):
    def cells_and_nuclei(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images[:, 0] > 0, images[:, 0] > 9


@pytest.mark.parametrize(
    ("segmenter", "missing"),
    [(OnlyCells(), "no cells_and_nuclei and no plausible;"), (WithoutOpinion(), "has no plausible;")],
)
def test_a_segmenter_without_nucleus_or_opinion_is_refused(segmenter, missing):
    with pytest.raises(CellfeatError, match=f"masks: mine cannot be used for pre-training, the segmenter .*{missing}"):
        segment_by(segmenter, "mine")


def test_the_network_of_an_earlier_run_gives_masks_and_trusts_by_quality(tmp_path, photographs, context):
    weights = read_weights(with_nucleus(tmp_path / "base.safetensors"))
    head = "mask_decoder.iou_prediction_head.layers.2"
    weights.state[f"{head}.weight"][:] = 0
    weights.state[f"{head}.bias"][:] = torch.tensor([0.1, 0.9, 0.7])  # of background, cell and nucleus
    save_weights(tmp_path / "own.safetensors", weights.state, weights.meta)
    images = torch.from_numpy(np.stack([cell.image for cell in photographs[1][:3]])).permute(0, 3, 1, 2)
    cell, nucleus, trusted = segment_with(tmp_path / "own.safetensors", replace(QUICK, trusted=0.69), context).masks(
        images
    )
    assert cell.shape == nucleus.shape == (3, 64, 64)
    assert cell.dtype == nucleus.dtype == torch.bool
    with torch.no_grad():
        logits = build_network(read_weights(tmp_path / "own.safetensors"), 64)(images).logits
    assert (cell[:, 2::4, 2::4] == (logits[:, 1] > logits[:, 0])).float().mean() > 0.95
    assert (nucleus[:, 2::4, 2::4] == (logits[:, 2] > 0) & (logits[:, 1] > logits[:, 0])).float().mean() > 0.95
    assert not (nucleus & ~cell).any()
    assert trusted.tolist() == [True] * 3
    doubted = segment_with(tmp_path / "own.safetensors", replace(QUICK, trusted=0.71), context)
    assert doubted.masks(images)[2].tolist() == [False] * 3
    assert not doubted.on_cpu


def test_photographs_of_any_side_are_brought_to_the_networks(tmp_path, photographs, context):
    segment = segment_with(with_nucleus(tmp_path / "own.safetensors"), QUICK, context)
    images = torch.from_numpy(np.stack([cell.image for cell in photographs[1][:2]])).permute(0, 3, 1, 2)
    larger = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    cell, wide = segment.masks(images)[0], segment.masks(larger)[0]
    assert wide.shape == (2, 128, 128)
    assert (wide[:, ::2, ::2] == cell).float().mean() > 0.97


def test_weights_that_tell_no_nucleus_make_no_masks(tmp_path, context):
    state = SamNetwork(BUILDS["tiny"], 64, masks=2).state_dict()
    save_weights(tmp_path / "two.safetensors", state, {})
    with pytest.raises(CellfeatError, match=r"masks: .*two\.safetensors has no mask token for the nucleus; name"):
        segment_with(tmp_path / "two.safetensors", QUICK, context)
