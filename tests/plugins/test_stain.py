"""Aligners `reinhard` and `macenko`: closed forms, torchstain's answers, known stains, images left as they are."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from cellfeat_da import stain, stain_fixed
from cellfeat_da.stain import Macenko, Reinhard
from helpers import check_variant

from cellfeat import CellfeatError, Cells
from cellfeat.synthetic import CLASSES, draw_cell
from cellfeat.testing import cpu_context

METHODS = [Reinhard, Macenko]
STAINS = np.array([[0.65, 0.2], [0.70, 0.85], [0.29, 0.49]]) / np.linalg.norm(
    [[0.65, 0.2], [0.70, 0.85], [0.29, 0.49]], axis=0
)
OTHER_STAINS = np.array([[0.5, 0.3], [0.6, 0.9], [0.62, 0.3]]) / np.linalg.norm(
    [[0.5, 0.3], [0.6, 0.9], [0.62, 0.3]], axis=0
)


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """(6, 3, 64, 64): three cells of each of two laboratories."""
    rng = np.random.default_rng(3)
    cells = [draw_cell(CLASSES[i % 5], "lab-a" if i < 3 else "lab-b", rng, 64).image for i in range(6)]
    return np.stack(cells).transpose(0, 3, 1, 2)


def cells_of(images: np.ndarray, domain: str = "here") -> Cells:
    return Cells.from_arrays(np.full(len(images), -1), domain=[domain] * len(images), image=images)


def rows(images: np.ndarray) -> np.ndarray:
    """(N, 3, S, S) -> (N, S, S, 3), as torchstain wants each."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


# CIELAB of sRGB by the CIE's definition, white point D65, in float64.
TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE = np.array([0.95047, 1.0, 1.08883])


def lab_of(image: np.ndarray) -> np.ndarray:
    rgb = image / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    t = linear @ TO_XYZ.T / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def rgb_of(lab: np.ndarray) -> np.ndarray:
    middle = (lab[..., 0] + 16) / 116
    f = np.stack([middle + lab[..., 1] / 500, middle, middle - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE
    linear = xyz @ np.linalg.inv(TO_XYZ).T
    rgb = np.where(linear > 0.0031308, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return 255 * np.clip(rgb, 0, 1)


def mixture(stains: np.ndarray, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image of two known stains, (size, size, 3) uint8, with pixels of either alone; amounts (2, size * size)."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.5, 1.5, (2, size * size))
    amounts[1, : size * size // 10], amounts[0, size * size // 10 : size * size // 5] = 0, 0
    light = 240 * np.exp(-(stains @ amounts)) - 1  # torchstain adds 1 to a pixel before the logarithm
    return np.clip(np.round(light), 0, 255).astype(np.uint8).T.reshape(size, size, 3), amounts


@pytest.mark.parametrize("reference", ["source", "fixed"])
@pytest.mark.parametrize("method", METHODS)
def test_contract(method, reference, tmp_path):
    check_variant(method, tmp_path, reference=reference)


def test_the_reference_of_reinhard_is_the_mean_over_images(drawn, context):
    fitted = Reinhard().fit(cells_of(drawn), context)
    labs = [lab_of(image).reshape(-1, 3) for image in rows(drawn)]
    np.testing.assert_allclose(fitted.reference_["mean"], np.mean([lab.mean(0) for lab in labs], 0), atol=2e-2)
    np.testing.assert_allclose(fitted.reference_["std"], np.mean([lab.std(0) for lab in labs], 0), atol=2e-2)


def test_reinhard_is_its_closed_form(drawn, context):
    fitted = Reinhard().fit(cells_of(drawn[:3]), context)
    painted = rows(fitted.transform(cells_of(drawn[3:], "there"), context))
    assert np.abs(painted.astype(int) - rows(drawn[3:])).mean() > 5, "another laboratory is recoloured"
    for image, answer in zip(rows(drawn[3:]), painted, strict=True):
        lab = lab_of(image)
        z = (lab - lab.mean((0, 1))) / lab.std((0, 1))
        wanted = rgb_of(z * fitted.reference_["std"] + fitted.reference_["mean"])
        error = np.abs(answer - np.floor(wanted))
        assert error.max() <= 1
        assert error.mean() < 0.02


def test_reinhard_gives_torchstains_pixels(drawn, context):
    from torchstain.numpy.normalizers import NumpyReinhardNormalizer

    fitted = Reinhard().fit(cells_of(drawn[:1]), context)
    theirs = NumpyReinhardNormalizer()
    theirs.fit(rows(drawn)[0])
    answers = rows(fitted.transform(cells_of(drawn), context))
    for image, answer in zip(rows(drawn), answers, strict=True):
        np.testing.assert_array_equal(answer, theirs.normalize(image))


def test_macenko_gives_torchstains_pixels(drawn, context):
    from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

    fitted = Macenko().fit(cells_of(drawn[:1]), context)
    theirs = NumpyMacenkoNormalizer()
    theirs.fit(rows(drawn)[0])
    np.testing.assert_allclose(fitted.reference_["stains"], theirs.HERef, rtol=1e-12)
    np.testing.assert_allclose(fitted.reference_["amounts"], theirs.maxCRef, rtol=1e-12)
    painted = rows(fitted.transform(cells_of(drawn), context))
    for image, answer in zip(rows(drawn), painted, strict=True):
        np.testing.assert_array_equal(answer, theirs.normalize(image, stains=False)[0])
    assert np.abs(painted[3:].astype(int) - rows(drawn)[3:]).mean() > 5


def test_macenko_finds_known_stains_and_puts_others_in_their_place(context):
    image, amounts = mixture(STAINS)
    found = Macenko().estimate(image)
    np.testing.assert_allclose(found["stains"], STAINS, atol=0.02)
    np.testing.assert_allclose(found["amounts"], np.percentile(amounts, 99, axis=1), rtol=0.03)
    other, _ = mixture(OTHER_STAINS)
    fitted = Macenko().fit(cells_of(other.transpose(2, 0, 1)[None]), context)
    painted = rows(fitted.transform(cells_of(image.transpose(2, 0, 1)[None], "there"), context))[0]
    before, after = (np.abs(one.astype(int) - other).mean() for one in (image, painted))
    assert before > 8
    assert after < 2, "the same amounts of the other stains"


def test_the_reference_of_macenko_is_the_median_over_images(drawn, context):
    fitted = Macenko().fit(cells_of(drawn[:3]), context)
    single = [Macenko().estimate(image) for image in rows(drawn[:3])]
    median = np.median([one["stains"] for one in single], axis=0)
    np.testing.assert_allclose(fitted.reference_["stains"], median / np.linalg.norm(median, axis=0))
    np.testing.assert_allclose(np.linalg.norm(fitted.reference_["stains"], axis=0), 1)
    np.testing.assert_allclose(
        fitted.reference_["amounts"], np.median([one["amounts"] for one in single], axis=0), rtol=1e-12
    )


def hopeless(kind: str) -> np.ndarray:
    """(3, 32, 32) uint8: images of which nothing can be told, by either method or by Macenko's."""
    rng = np.random.default_rng(0)
    image = np.full((32, 32, 3), {"white": 255, "pale": 230, "grey": 128, "black": 0}.get(kind, 235), np.uint8)
    if kind == "faint noise":
        image[0, 0] = 234
    elif kind == "two pixels":
        image[0, :2] = (90, 40, 120), (120, 60, 90)
    elif kind == "one stain":
        amount = rng.uniform(0.3, 2.0, (32, 32, 1))
        image = (240 * np.exp(-amount * 0.57)).astype(np.uint8) + np.zeros((1, 1, 3), np.uint8)
    elif kind == "speck":
        image[:2, :4] = rng.integers(20, 120, (2, 4, 3))
    return image.transpose(2, 0, 1)


@pytest.mark.parametrize("reference", ["source", "fixed"])
@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        (Reinhard, ["white", "pale", "grey", "black", "faint noise", "one stain"]),
        (Macenko, ["white", "pale", "grey", "black", "faint noise", "one stain", "two pixels", "speck"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_image_that_cannot_be_judged_stays_bit_for_bit(method, kinds, reference, drawn, context):
    fitted = method(reference).fit(cells_of(drawn[:, :, ::2, ::2]), context)
    images = np.stack([hopeless(kind) for kind in kinds] + [drawn[0, :, ::2, ::2]])
    painted = fitted.transform(cells_of(images), context)
    for kind, before, after in zip(kinds, images, painted, strict=False):
        np.testing.assert_array_equal(after, before, kind)
    assert (painted[-1] != images[-1]).any(), "its neighbours are done all the same"


@pytest.mark.parametrize("method", METHODS)
def test_blank_images_have_no_say_in_the_reference(method, drawn, context):
    blank = np.full((3, *drawn.shape[1:]), 240, np.uint8)
    with_blank = method().fit(cells_of(np.concatenate([drawn, blank])), context)
    without = method().fit(cells_of(drawn), context)
    for name, values in without.reference_.items():
        np.testing.assert_allclose(with_blank.reference_[name], values, rtol=1e-12)
    with pytest.raises(CellfeatError, match=rf"'{method.name}': none of 3 source images.*align\.reference=fixed"):
        method().fit(cells_of(blank), context)


@pytest.mark.parametrize("method", METHODS)
def test_fixed_does_not_depend_on_the_source(method, drawn, tmp_path):
    painted = [
        method("fixed")
        .fit(cells_of(some), cpu_context(tmp_path, seed))
        .transform(cells_of(drawn), cpu_context(tmp_path))
        for seed, some in enumerate((drawn[:2], drawn[3:]))
    ]
    np.testing.assert_array_equal(*painted)
    learned = method().fit(cells_of(drawn[3:]), cpu_context(tmp_path)).transform(cells_of(drawn), cpu_context(tmp_path))
    assert (learned != painted[0]).any()


def test_fixed_references_are_those_of_drawn_cells():
    images = stain_fixed.drawn()
    assert images.shape == (200, 3, 112, 112)
    for method, constants, tolerance in ((Reinhard, stain_fixed.REINHARD, 0.02), (Macenko, stain_fixed.MACENKO, 2e-3)):
        found = stain_fixed.measured(method(), images)
        assert set(found) == set(constants)
        for name, values in constants.items():
            np.testing.assert_allclose(found[name], values, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_a_large_source_is_sampled_by_seed(method, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(stain, "LARGEST_SAMPLE", 2)
    looked = []
    estimate = method.estimate
    monkeypatch.setattr(method, "estimate", lambda self, image: looked.append(image) or estimate(self, image))
    samples = set()
    for seed in (0, 0, 1, 2, 3):
        looked.clear()
        method().fit(cells_of(drawn), cpu_context(tmp_path, seed))
        assert len(looked) == 2
        samples.add(tuple(image.tobytes() for image in looked))
    assert 1 < len(samples) < 5


@pytest.mark.parametrize("method", METHODS)
def test_without_torchstain_it_is_refused_before_any_work(method, context, monkeypatch):
    for part in ("", ".numpy", ".numpy.normalizers", ".numpy.utils"):
        monkeypatch.setitem(sys.modules, f"torchstain{part}", None)
    with pytest.raises(
        CellfeatError, match=rf"'{method.name}' needs torchstain.*pip install \"cellfeat\[alignment\]\""
    ):
        method().prepare(context)


def test_importing_the_methods_imports_no_torchstain():
    code = (
        "import sys, cellfeat_da as p; p.cellfeat_align(); print([m in sys.modules for m in ('torchstain', 'torch')])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[False, False]"
