"""Views for pre-training: image and mask move together, colours change as a laboratory would change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cellfeat_lora_sam.pretrain_pool import CYTOPLASM, NUCLEUS, Pool
from cellfeat_lora_sam.pretrain_views import Ranges, Stain, Views, _density, boxes, reduced, sources, views
from pretraining import STILL, disc_masks, drawn_cells, painted, pool_of
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")
WILD = Ranges(gain=(-1.0, 0.5), mixing=0.3, noise=9.0, plain=0.0, pasted=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(pool: Pool, size: int, ranges: Ranges, seed: int = 0, strength: float = 1.0) -> Views:
    generator = seeded(seed)
    rows = torch.arange(len(pool.images))
    return views(sources(pool, rows, ranges, generator), size, ranges, generator, strength)


def uneven_masks(count: int, side: int) -> np.ndarray:
    """A round cell with a square corner and an eccentric nucleus: no turn and no mirror leaves it as it is."""
    mask = disc_masks(1, side, side / 6)[0]
    middle, reach = side // 2, side // 6
    mask[mask == NUCLEUS] = CYTOPLASM
    mask[middle : middle + reach, middle : middle + reach] = CYTOPLASM
    mask[middle - reach // 2 : middle, middle + 1 : middle + reach - 2] = NUCLEUS
    return np.repeat(mask[None], count, axis=0)


# Shapes, seeds


def test_views_have_the_shapes_that_they_promise(context):
    view = seen(drawn_cells(context), 32, Ranges())
    assert view.images.shape == (4, 3, 32, 32)
    assert view.images.dtype == torch.float32
    assert view.images.amin() >= 0
    assert view.images.amax() <= 255
    assert view.images.std() > 10
    assert view.cell.shape == view.nucleus.shape == (4, 8, 8)
    assert view.cell.dtype == view.nucleus.dtype == torch.int64
    assert (view.nucleus <= view.cell).all()
    assert 0 < view.nucleus.float().mean() < view.cell.float().mean() < 1
    assert view.canonical.shape == (4, 3, 8, 8)


def test_views_follow_from_the_rows_and_the_seed(context):
    pool = drawn_cells(context)
    torch.manual_seed(1)
    first = seen(pool, 32, Ranges())
    torch.manual_seed(2)  # the generator is the only source of chance
    again, other = seen(pool, 32, Ranges()), seen(pool, 32, Ranges(), seed=1)
    for name in ("images", "cell", "nucleus", "canonical"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
        assert not torch.equal(getattr(first, name), getattr(other, name)), name


def test_rows_are_the_rows_of_the_pool():
    masks = np.concatenate([disc_masks(1, 64, radius) for radius in (8, 12, 16, 20)])
    pool = pool_of(painted(masks), masks)
    pool.light[:] = torch.arange(4.0)[:, None]
    frames, taken, light = sources(pool, torch.tensor([2, 0, 2]), STILL, seeded())
    assert torch.equal(taken, pool.masks[[2, 0, 2]])
    assert torch.equal(frames, pool.images[[2, 0, 2]].permute(0, 3, 1, 2).float())
    assert torch.equal(light[:, 0], torch.tensor([2.0, 0.0, 2.0]))


def test_frames_are_reduced_with_their_masks_and_without_aliasing():
    masks = uneven_masks(2, 96)
    pool = pool_of(painted(masks), masks)
    frames, taken, light = reduced(sources(pool, torch.arange(2), STILL, seeded()), 64)
    assert frames.shape == (2, 3, 64, 64)
    assert taken.shape == (2, 64, 64)
    assert set(taken.unique().tolist()) == {0, CYTOPLASM, NUCLEUS}
    assert torch.equal(light, pool.light)
    assert ((frames[:, 0] < 190) != (taken > 0)).float().mean() < 0.02
    rows = torch.arange(96)
    checked = (255 * ((rows[:, None] + rows) % 2)).expand(1, 3, 96, 96).float()
    seen = reduced((checked, torch.zeros(1, 96, 96).byte(), light), 32)[0]
    assert (seen - 127.5).abs().max() < 10


# Geometry


def test_reduced_masks_stay_where_they_are():
    """A disc in image and mask keeps its middle to a tenth of a pixel when both are brought to the frame's size."""
    ys, xs = np.mgrid[:336, :336]
    disc = torch.from_numpy(np.hypot(ys - 180, xs - 150) < 60)
    frames, masks = (240.0 - 200 * disc.float())[None, None].expand(1, 3, 336, 336), disc[None].byte()
    small, taken, _ = reduced((frames, masks, torch.full((1, 3), 240.0)), 224)

    def middle(weight: torch.Tensor) -> torch.Tensor:
        places = torch.arange(224.0)
        return torch.stack([(weight.sum(1 - axis) * places).sum() / weight.sum() for axis in (0, 1)])

    torch.testing.assert_close(middle(taken[0].float()), middle(240 - small[0, 0]), rtol=0, atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_the_masks_follow_the_image_through_the_geometry(seed):
    """The frame is its own mask: wherever the view shows the grey of a part, its mask must have that part."""
    masks = uneven_masks(8, 96)
    view = seen(pool_of(painted(masks), masks), 96, replace(STILL, shares=(0.5, 0.8), offset=0.05), seed, 0.0)
    grey = functional.avg_pool2d(view.images, 4)[:, 0]
    for part, between in ((view.cell, 190), (view.nucleus, 105)):
        assert part.float().mean() > 0.02
        assert ((grey < between) != part.bool()).float().mean() < 0.01


def test_views_are_turned_and_mirrored():
    """A red spot to the right of the middle, a green one below it: where are they in the views?"""
    masks = disc_masks(64, 48, 20)
    images = np.zeros((64, 48, 48, 3), np.uint8)
    images[:, 21:27, 34:40, 0] = images[:, 34:40, 21:27, 1] = 255
    shown = seen(pool_of(images, masks), 48, replace(STILL, shares=(0.8, 0.8))).images
    place = torch.arange(48) - 23.5
    x, y = ((shown * place[axis]).sum((2, 3)) for axis in ((None, slice(None)), (slice(None), None)))
    turn = torch.atan2(y[:, 0], x[:, 0])
    for quarter in (-np.pi / 2, 0.0, np.pi / 2):
        assert (turn - quarter).abs().lt(0.05).sum() >= 4
    assert (turn / (np.pi / 2) - (turn / (np.pi / 2)).round()).abs().gt(0.1).float().mean() > 0.2  # and any turn
    mirrored = x[:, 0] * y[:, 1] < y[:, 0] * x[:, 1]
    assert 0.25 < mirrored.float().mean() < 0.75
    together = torch.stack([mirrored, (turn / (np.pi / 2) - (turn / (np.pi / 2)).round()).abs().lt(0.05)]).int()
    assert len(together.T.unique(dim=0)) == 4  # one does not go with the other


def test_the_cells_size_and_place_are_those_of_the_ranges():
    masks = disc_masks(12, 96, 15, middle=(38, 53))
    pool = pool_of(painted(masks), masks)
    for share in (0.4, 0.8):
        found = boxes(seen(pool, 96, replace(STILL, shares=(share, share))).cell)
        assert found[:, 2].tolist() == pytest.approx([share * 24] * 12, abs=2)
        assert found[:, :2].flatten().tolist() == pytest.approx([12.0] * 24, abs=1)
    moved = boxes(seen(pool, 96, replace(STILL, shares=(0.4, 0.4), offset=0.1)).cell)
    assert 0.05 < (moved[:, :2] - 12).div(24).std() < 0.16


def test_a_view_shows_little_beyond_the_frame_and_no_cell_there():
    """A cell of half the frame asked for at a tenth of the view: the window stops at 1.15 of the frame's side."""
    masks = disc_masks(8, 64, 16)
    found = boxes(seen(pool_of(painted(masks), masks), 192, replace(STILL, shares=(0.1, 0.1))).cell)
    assert found[:, 2].tolist() == pytest.approx([48 * 0.5 / 1.15] * 8, abs=1.5)
    masks = disc_masks(8, 64, 20, middle=(4, 32))  # cut by the border, where the image is mirrored
    view = seen(pool_of(painted(masks), masks), 64, replace(STILL, shares=(0.4, 0.4)), strength=0.0)
    grey = functional.avg_pool2d(view.images, 4)[:, 0]
    mirrored = (grey < 190) & ~view.cell.bool()
    assert (mirrored.flatten(1).float().mean(1) > 0.05).all()
    assert ((grey >= 190) & view.cell.bool()).float().mean() < 0.01


def test_boxes_by_hand():
    masks = torch.zeros((3, 20, 20), dtype=torch.uint8)
    masks[0, 2:6, 5:15] = CYTOPLASM
    masks[0, 3, 7] = NUCLEUS
    masks[1, 19, 0] = NUCLEUS
    assert boxes(masks).tolist() == [[10.0, 4.0, 10.0], [0.5, 19.5, 1.0], [10.0, 10.0, 10.0]]


# Colours


def test_plain_views_keep_their_colours():
    masks = disc_masks(6, 64, 16)
    pool = pool_of(painted(masks), masks)
    images = pool.images.permute(0, 3, 1, 2).float()
    plain, changed = (Stain.drawn(6, pool.light, replace(WILD, plain=p), 1.0, seeded()) for p in (1.0, 0.0))
    assert torch.equal(plain.applied(images), images)
    assert ((changed.applied(images) - images).abs().mean((1, 2, 3)) > 3).all()


def test_the_stain_of_no_strength_gives_back_the_image():
    images = torch.randint(8, 241, (4, 3, 16, 16), generator=seeded()).float()
    light = torch.tensor([[240.0, 230.0, 220.0]]).expand(4, 3)
    images = torch.minimum(images, light[..., None, None])
    torch.testing.assert_close(Stain.drawn(4, light, WILD, 0.0, seeded()).applied(images), images, rtol=0, atol=1)


def test_the_stain_of_identity_and_the_same_lamp_gives_back_the_image():
    images = torch.full((1, 3, 2, 2), 100.0)
    light, one, none = torch.full((1, 3), 200.0), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    lamp, eye, plain = (light / 255)[..., None, None], torch.eye(3)[None], torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    same = Stain(light, eye, lamp, none, one, plain)
    torch.testing.assert_close(same.applied(images), images, rtol=0, atol=0.6)
    density = np.log(201 / 101)
    for changes, wanted in (
        ({"matrix": 2 * eye}, 200 * np.exp(-2 * density)),
        ({"lamp": lamp / 2}, 100 * np.exp(-density)),
        ({"haze": one / 4}, 200 * (0.75 * np.exp(-density) + 0.25)),
        ({"gamma": 2 * one}, 255 * (200 / 255 * np.exp(-density)) ** 2),
    ):
        torch.testing.assert_close(same._replace(**changes).applied(images), torch.full((1, 3, 2, 2), wanted).float())
    mixed = same._replace(matrix=torch.tensor([[[0.0, 0, 0], [1, 1, 0], [0, 0, 1]]])).applied(images)[0, :, 0, 0]
    torch.testing.assert_close(mixed, torch.tensor([1, np.exp(-2 * density), np.exp(-density)]).float() * 200)


def test_views_of_no_strength_are_the_photograph(context):
    """Resampling of the frame is all that remains, and that is undone by its mean colours."""
    pool = drawn_cells(context)
    weak, strong = (seen(pool, 32, WILD, strength=strength) for strength in (0.0, 1.0))
    torch.testing.assert_close(weak.canonical, strong.canonical, rtol=0, atol=0)  # the original stain, not the new one
    light = pool.light[..., None, None]
    shown = functional.avg_pool2d(weak.images, 4)
    wanted = (light + 1) * (-weak.canonical).exp() - 1
    assert (shown - wanted).abs().mean() < 1.5
    assert (functional.avg_pool2d(strong.images, 4) - wanted).abs().mean() > 10


def test_the_canonical_densities_are_those_of_the_pools_light():
    masks = np.zeros((2, 64, 64), np.uint8)
    pool = pool_of(np.full((2, 64, 64, 3), 99, np.uint8), masks)
    pool.light[1] = 199
    canonical = seen(pool, 32, WILD).canonical
    wanted = torch.tensor([np.log(241 / 100), np.log(2)]).float()
    torch.testing.assert_close(canonical, wanted[:, None, None, None].expand(2, 3, 8, 8))
    dark, bright = _density(
        torch.tensor([0.0, 255.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2), torch.full((1, 3), 99.0)
    )[0, 0, 0]
    assert dark == pytest.approx(4.0)  # the darkest that counts
    assert bright == pytest.approx(-0.3)


def test_the_camera_resolves_and_adds_noise_as_told():
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 64, 64), np.uint8)
    rough = pool_of(rng.integers(60, 200, (8, 64, 64, 3), dtype=np.uint8), masks)
    flat = pool_of(np.full((8, 64, 64, 3), 120, np.uint8), masks)
    sharp, blurred = (
        seen(rough, 64, replace(STILL, resolution=(share, share))).images.flatten(2).std(dim=2).mean()
        for share in (1.0, 0.3)
    )
    assert blurred < 0.6 * sharp
    levels = seen(flat, 64, replace(STILL, noise=9.0)).images.flatten(2).std(dim=2).mean(1)
    assert (levels < 9.5).all()
    assert levels.max() > 5
    assert levels.max() > 2 * levels.min()
    assert seen(flat, 64, STILL).images.std() < 0.5


# Other surroundings


def fields(greys: list[int], masks: np.ndarray) -> np.ndarray:
    """One frame for each grey of the field, with cells of grey 50 where the masks have them."""
    field = np.array(greys, np.uint8)[:, None, None, None]
    return np.where(masks[..., None] > 0, np.uint8(50), np.broadcast_to(field, (*masks.shape, 3)))


def test_pasted_photographs_keep_the_cell_and_get_anothers_surroundings():
    masks, greys = disc_masks(6, 60, 9), [120, 140, 160, 180, 200, 220]
    pool = pool_of(fields(greys, masks), masks)
    pasted, taken, light = sources(pool, torch.arange(6), replace(STILL, pasted=1.0), seeded())
    assert torch.equal(taken, pool.masks)
    assert torch.equal(light, pool.light)
    cell = torch.from_numpy(masks[0] > 0)
    assert (pasted[:, :, cell] == 50).all()
    ring = torch.from_numpy((disc_masks(1, 60, 14)[0] > 0) & (disc_masks(1, 60, 12)[0] == 0))
    around = pasted[:, 0, ring]
    assert around.std(dim=1).max() == 0  # the other's cell lies in the corners
    assert (around[:, 0] != torch.tensor(greys).float()).sum() >= 4
    assert set(around[:, 0].tolist()) == set(map(float, greys))
    assert (pasted[:, 0, 0, 0] == 50).any() or (pasted[:, 0, -1, -1] == 50).any()


def test_a_pasted_cell_keeps_a_soft_rim_of_its_own_field():
    masks = disc_masks(2, 60, 9)
    pool, always = pool_of(fields([120, 220], masks), masks), replace(STILL, pasted=1.0)
    lines = [sources(pool, torch.arange(2), always, seeded(seed))[0][0, 0, 30, 30:45] for seed in range(8)]
    swapped = next(line for line in lines if line[-1] == 220)
    assert (swapped[:9] == 50).all()
    assert swapped[9] < 150
    assert (swapped.diff() >= 0).all()
    assert ((swapped > 120) & (swapped < 220)).any()
    assert (swapped[13:] == 220).all()


def test_only_photographs_whose_mask_is_known_are_pasted():
    masks = disc_masks(4, 60, 9)
    pool = pool_of(fields([100, 150, 200, 250], masks), masks)
    original = pool.images.permute(0, 3, 1, 2).float()
    always, never = replace(STILL, pasted=1.0), replace(STILL, pasted=0.0)
    for untouched, ranges in (
        (pool._replace(drawn=torch.tensor([0, 3, 1, 2])), always),
        (pool._replace(known=torch.zeros(4, dtype=torch.bool)), always),
        (pool, never),
    ):
        assert torch.equal(sources(untouched, torch.arange(4), ranges, seeded())[0], original)
    half = pool._replace(drawn=torch.tensor([0, -1, 1, -1]))
    changed = (sources(half, torch.arange(4), always, seeded())[0] != original).flatten(1).any(1)
    assert changed.tolist() == [False, True, False, True]
