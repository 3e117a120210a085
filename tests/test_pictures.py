"""Pictures of a training: what stands in the PNG is what was given, and nothing else is changed by drawing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellfeat import curves as curves_module
from cellfeat.drawing import one_line, shortened
from cellfeat.pictures import OUTLINE, image_grid, loss_curves, mask_outline
from cellfeat.synthetic import CLASSES, LABORATORIES, draw_cell

# A glyph that the font does not have, a layout that gives up, an overflow: matplotlib only warns of them.
pytestmark = pytest.mark.filterwarnings("error")

RED = (0xCC, 0x33, 0x11)
HOSTILE = ["$x", "$\\frac{", "a\nb\tc\x00\x1b[31m", "日本 \udcff", "", " ", "x" * 5000, "{0}%s", "\u202egnp.exe"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def where_colour(page: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((page == np.array(colour, np.uint8)).all(axis=2))


def solid(colour: tuple[int, int, int], height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def panels(tmp_path, monkeypatch):
    """Draw curves and give the figure's axes."""
    kept = []
    drawn = curves_module.drawn
    monkeypatch.setattr(curves_module, "drawn", lambda canvas: kept.append(canvas) or drawn(canvas))

    def draw(curves, title="", **options):
        loss_curves(tmp_path / "curves.png", curves, title, **options)
        return kept[-1].figure.axes

    return draw


def end_of(axes) -> str:
    [text] = axes.texts
    return text.get_text()


def points_of(axes) -> list[int]:
    """The epochs that have a point of their own."""
    return [int(x) for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]


def crosses_of(axes) -> list[int]:
    return [int(x) for line in axes.lines if line.get_marker() == "x" for x in line.get_xdata()]


def labels_of(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


# Curves.


def test_curves_are_a_png_with_the_same_bytes_every_time(tmp_path):
    curves = {"total": [3.0, 2.0, 1.5], "SSIM": [0.5, 0.4, 0.3], "domain means": [1.0, 0.1, 0.01]}
    for name in ("a.png", "deep/er/b.png"):
        loss_curves(tmp_path / name, curves, "CAE")
    first, second = (tmp_path / "a.png").read_bytes(), (tmp_path / "deep/er/b.png").read_bytes()
    assert first == second
    assert b"Software" not in first
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.png", "b.png", "deep", "er"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1350, 352)
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert len(first) < 100_000


def test_every_curve_has_a_panel_and_the_rate_the_last(panels):
    rate = [1e-6, 1e-4, 1e-5]
    axes = panels({"total": [3.0, 2.0, 1.5], "SSIM": [0.5, 0.4, 0.3]}, "CAE", rate=rate, unit="step")
    assert [panel.get_title("left") for panel in axes] == ["total", "SSIM", "learning rate"]
    assert [list(panel.lines[0].get_ydata()) for panel in axes] == [[3.0, 2.0, 1.5], [0.5, 0.4, 0.3], rate]
    assert [panel.get_yscale() for panel in axes] == ["linear"] * 3  # the rate too, though it spans decades
    assert {panel.get_xlabel() for panel in axes} == {"step"}
    assert axes[0].figure.get_suptitle() == "CAE"
    assert [end_of(panel) for panel in axes] == ["1.5", "0.3", "1e−5"]


@pytest.mark.parametrize(
    ("epochs", "ticks", "points"),
    [(1, [1], 1), (2, [1, 2], 2), (10, [1, 3, 5, 7, 9], 10), (300, [1, 100, 200, 300], 0)],
)
def test_epochs_count_from_1_in_whole_numbers_and_few_have_points(panels, epochs, ticks, points):
    [axes] = panels({"total": np.linspace(2, 1, epochs)})
    assert list(axes.get_xticks()) == ticks
    assert labels_of(axes.xaxis) == [str(tick) for tick in ticks]
    assert list(axes.lines[0].get_xdata()) == list(range(1, epochs + 1))
    assert len(points_of(axes)) == points
    low, high = axes.get_xlim()
    assert 0.45 <= low < 1 or epochs == 300
    assert high > epochs


def test_panels_share_the_epochs_of_the_longest(panels):
    short, long = panels({"short": [1.0, 2.0], "long": np.arange(1.0, 31.0)})
    assert short.get_xlim() == long.get_xlim()


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([100.0, 10.0, 1.0], "log"),
        ([10.1, 1.0], "log"),
        ([10.0, 1.0], "linear"),
        ([100.0, 0.0], "linear"),
        ([100.0, -1.0], "linear"),
        ([100.0, np.nan, 1.0], "log"),
    ],
)
def test_a_logarithmic_axis_needs_positive_values_over_more_than_a_decade(panels, values, scale):
    [axes] = panels({"total": values})
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < np.nanmin(values)
    assert high > np.nanmax(values)


def test_numbers_on_the_axis_tell_each_other_apart(panels):
    spans = {"plain": [0.0, 2.0], "near": [1.00001, 1.00003], "small": [1e-7, 3e-7], "logarithmic": [1e-6, 1.0]}
    for axes in panels(spans):
        labels, (low, high) = labels_of(axes.yaxis), axes.get_ylim()
        numbers = [float(label.replace("−", "-")) for label in labels]
        assert numbers == pytest.approx(list(axes.get_yticks()), rel=1e-9, abs=1e-12)
        assert 3 <= len(set(labels)) == len(labels) <= 6
        assert low <= min(numbers) < max(numbers) <= high


@pytest.mark.parametrize(("value", "label"), [(0.0, "0"), (-0.0, "0"), (0.123456, "0.1235"), (-2.5, "−2.5")])
def test_a_constant_curve_is_flat_in_the_middle_of_its_panel(panels, value, label):
    for axes in panels({"few": [value] * 3, "many": [value] * 300, "noise": [value, value * (1 + 1e-15)]}):
        low, high = axes.get_ylim()
        assert (low + high) / 2 == pytest.approx(value)
        assert high - low >= max(0.9 * abs(value), 1e-3)
        assert labels_of(axes.yaxis) == [label] == [end_of(axes)]


def test_the_last_number_has_the_digits_that_the_curve_needs(panels):
    near, far = panels({"near": [1.00001, 1.00003, 1.00002], "far": [1.0, 123456.0]})
    assert (end_of(near), end_of(far)) == ("1.00002", "1.235e5")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_not_finite_is_marked_and_counted(panels, tmp_path, bad):
    middle, end, whole = panels({"middle": [3.0, bad, bad, 1.0], "end": [3.0, 2.0, bad], "whole": [bad] * 3})
    assert [crosses_of(axes) for axes in (middle, end, whole)] == [[2, 3], [3], [1, 2, 3]]
    assert [axes.get_title("right") for axes in (middle, end, whole)] == [
        "2 not finite",
        "1 not finite",
        "3 not finite",
    ]
    assert [points_of(axes) for axes in (middle, end, whole)] == [[1, 4], [1, 2], []]
    assert np.isnan(middle.lines[0].get_ydata()).tolist() == [False, True, True, False]  # no line across the gap
    assert end_of(middle) == "1"
    assert end_of(end) == end_of(whole) == {"nan": "nan", "inf": "inf", "-inf": "−inf"}.get(str(bad), "1e200")
    assert len(where_colour(pixels(tmp_path / "curves.png"), RED)[0]) > 20


def test_a_finite_curve_has_nothing_red(panels, tmp_path):
    [axes] = panels({"total": [3.0, 2.0]})
    assert (crosses_of(axes), axes.get_title("right")) == ([], "")
    assert not len(where_colour(pixels(tmp_path / "curves.png"), RED)[0])


def test_a_value_between_two_gaps_has_a_point_in_a_long_curve_too(panels):
    values = np.linspace(2, 1, 300)
    values[[99, 101, 298]] = np.nan
    assert points_of(panels({"total": values})[0]) == [101, 300]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_drawn_as_they_are(panels, text):
    [axes, *_] = panels({text: [1.0, np.nan]}, title=text, unit=text, rate=[1.0])
    written = axes.figure.findobj(lambda artist: hasattr(artist, "get_parse_math") and "$" in artist.get_text())
    assert not any(artist.get_parse_math() for artist in written)
    if "$" in text:
        assert axes.get_title("left") == axes.figure.get_suptitle() == text
    assert axes.get_title("left").isprintable()
    axes.figure.canvas.draw()
    left = axes._left_title.get_window_extent()
    assert left.x1 <= axes._right_title.get_window_extent().x0


def test_a_long_title_stays_within_the_figure(panels):
    [axes] = panels({"total": [1.0, 2.0]}, "a title that is too long for so small a picture " * 3)
    assert axes.figure._suptitle.get_window_extent().x1 <= axes.figure.bbox.x1
    assert "…" in axes.figure.get_suptitle()


@pytest.mark.parametrize(
    ("curves", "options", "message"),
    [
        ({}, {}, "there is no curve to draw"),
        ({"SSIM": [1.0], "means": []}, {}, r"curve 'means' has values of shape \(0,\)"),
        ({"means": [[1.0, 2.0]]}, {}, r"curve 'means' has values of shape \(1, 2\)"),
        ({"means": 3.0}, {}, r"curve 'means' has values of shape \(\)"),
        ({"means": ["low"]}, {}, "curve 'means' is no sequence of numbers"),
        ({"means": [1.0]}, {"rate": []}, r"curve 'learning rate' has values of shape \(0,\)"),
    ],
)
def test_curves_that_cannot_be_drawn_are_named(tmp_path, curves, options, message):
    with pytest.raises(ValueError, match=message):
        loss_curves(tmp_path / "curves.png", curves, "", **options)
    assert not list(tmp_path.iterdir())


# Grids.


def test_a_grid_is_a_png_with_the_same_bytes_every_time(tmp_path):
    rows = {"original": noise(9, 20).reshape(3, 3, 20, 3), "mask": np.eye(20, dtype=bool)[None].repeat(3, axis=0)}
    given = {label: row.copy() for label, row in rows.items()}
    for row in rows.values():
        row.flags.writeable = False
    for name in ("a.png", "b.png"):
        image_grid(tmp_path / name, rows, columns=["$a", "b$", "$c$"], title="$grid")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in (tmp_path / "a.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    assert all(np.array_equal(row, given[label]) for label, row in rows.items())


@pytest.mark.parametrize(("side", "factor"), [(1, 256), (17, 15), (64, 4), (128, 2), (129, 1), (256, 1)])
def test_a_pixel_becomes_a_square(tmp_path, side, factor):
    image_grid(tmp_path / "grid.png", {"solid": [solid((17, 200, 93), side, side)], "noise": [noise(side, side)]})
    page = pixels(tmp_path / "grid.png")
    ys, xs = where_colour(page, (17, 200, 93))
    shown = side * factor
    assert len(ys) >= shown**2
    top, left = ys.min(), xs.min()
    assert (page[top : top + shown, left : left + shown] == (17, 200, 93)).all()
    below = page[top + shown + 8 :][:shown, left : left + shown]
    assert np.array_equal(below, noise(side, side).repeat(factor, axis=0).repeat(factor, axis=1))


def test_a_picture_over_256_px_is_reduced_to_the_mean_of_blocks(tmp_path):
    large = np.zeros((300, 601, 3), np.uint8)
    large[:, :, 0] = np.arange(601) % 3 * 100  # 0, 100, 200 in every block of 3 × 3
    image_grid(tmp_path / "grid.png", {"large": [large]})
    ys, xs = where_colour(pixels(tmp_path / "grid.png"), (100, 0, 0))
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1, len(ys)) == (100, 200, 100 * 200)


def test_masks_are_black_and_white(tmp_path):
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True
    image_grid(tmp_path / "bool.png", {"mask": [mask]})
    image_grid(tmp_path / "integer.png", {"mask": [np.where(mask, 7, 0)]})
    assert (tmp_path / "bool.png").read_bytes() == (tmp_path / "integer.png").read_bytes()
    page = pixels(tmp_path / "bool.png")
    ys, xs = where_colour(page, (0, 0, 0))
    square = page[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    assert np.array_equal(square, np.where(mask, 255, 0)[..., None].repeat(3, 2).repeat(4, 0).repeat(4, 1))


def test_a_white_picture_has_an_edge(tmp_path):
    image_grid(tmp_path / "grid.png", {"": [np.ones((64, 64), bool)]})
    ys, xs = where_colour(pixels(tmp_path / "grid.png"), (208, 208, 208))
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1, len(ys)) == (258, 258, 4 * 257)


@pytest.mark.parametrize("count", [1, 8, 9, 16])
def test_rows_of_many_pictures_are_continued_below(tmp_path, count):
    colours = [(10 + place, 40, 250 - 9 * place) for place in range(count)]
    image_grid(tmp_path / "grid.png", {"a": [solid(colour, 128, 128) for colour in colours]}, title="many")
    page = pixels(tmp_path / "grid.png")
    corners = [tuple(int(axis.min()) for axis in where_colour(page, colour)) for colour in colours]
    assert corners == sorted(corners)
    assert len({y for y, _ in corners}) == (1 if count <= 8 else 2)
    assert all(len(where_colour(page, colour)[0]) >= 128**2 for colour in colours)
    assert page.shape[1] < 1400


def test_pictures_of_other_sizes_and_shapes_stand_in_the_middle_of_their_cells(tmp_path):
    image_grid(tmp_path / "grid.png", {"a": [solid((1, 2, 250), 256, 256)], "b": [solid((250, 2, 1), 256, 100)]})
    page = pixels(tmp_path / "grid.png")
    (_, wide), (_, narrow) = where_colour(page, (1, 2, 250)), where_colour(page, (250, 2, 1))
    assert (wide.min() + wide.max()) == (narrow.min() + narrow.max())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_captions_stay_above_their_own_picture(tmp_path, text):
    place = [solid((17, 200, 93)), solid((93, 17, 200))]
    image_grid(tmp_path / "grid.png", {text: place}, columns=[text * 9, "W" * 999], title=text)
    page = pixels(tmp_path / "grid.png")
    ys, first = where_colour(page, (17, 200, 93))
    _, second = where_colour(page, (93, 17, 200))
    captions = (page[ys.min() - 28 : ys.min() - 2] < 200).any(axis=(0, 2))
    assert not captions[: first.min()].any()
    assert not captions[first.max() + 1 : second.min()].any()
    assert captions[second.min() : second.max() + 1].any()
    assert not captions[second.max() + 1 :].any()
    labels = (page[:, : first.min() - 1] < 200).any(axis=(1, 2))
    assert page.shape[1] < 1000
    assert labels.any() == bool(one_line(text))


def test_a_grid_of_3_by_8_cells_is_small(tmp_path):
    rng = np.random.default_rng(0)
    cells = [draw_cell(CLASSES[place % 5], sorted(LABORATORIES)[0], rng, 128) for place in range(8)]
    rows = {
        "original": [mask_outline(cell.image, cell.mask > 0) for cell in cells],
        "mask": [cell.mask for cell in cells],
        "reconstruction": [cell.image // 32 * 32 for cell in cells],
    }
    image_grid(tmp_path / "grid.png", rows, columns=[cell.label for cell in cells], title="CAE")
    assert (tmp_path / "grid.png").stat().st_size < 300_000


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ({}, None, "there is no row to draw"),
        ({"a": []}, None, "row 'a' has 0 pictures; a row has 1 to 16"),
        ({"a": np.zeros((17, 4, 4, 3), np.uint8)}, None, "row 'a' has 17 pictures; a row has 1 to 16"),
        ({"a": [solid((0, 0, 0))] * 2, "b": [solid((0, 0, 0))]}, None, "pictures, but 'a' has 2, 'b' has 1"),
        ({"a": [solid((0, 0, 0))]}, ["x", "y"], "there are 2 captions for 1 pictures"),
        ({"a": [solid((0, 0, 0))]}, [], "there are 0 captions for 1 pictures"),
        ({"a": [np.zeros((3, 8, 8), np.uint8)]}, None, r"row 'a' has a picture that is \(3, 8, 8\) uint8"),
        ({"a": [np.zeros((8, 8, 3))]}, None, r"row 'a' has a picture that is \(8, 8, 3\) float64"),
        ({"a": [np.zeros((8, 8))]}, None, r"row 'a' has a picture that is \(8, 8\) float64"),
        ({"a": [np.zeros((0, 8, 3), np.uint8)]}, None, r"row 'a' has a picture that is \(0, 8, 3\) uint8"),
    ],
)
def test_rows_that_cannot_be_drawn_are_named(tmp_path, rows, columns, message):
    with pytest.raises(ValueError, match=message):
        image_grid(tmp_path / "grid.png", rows, columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("abcdefghij", 10, "abcdefghij"),
        ("abcdefghij", 6, "abc…ij"),
        ("abc", 2, "a…"),
        ("abc", 0, "…"),
        ("ab cd", 4, "ab…d"),
    ],
)
def test_a_text_is_shortened_in_its_middle(text, width, short):
    assert shortened(text, width, len) == short


def test_a_text_is_one_line_of_what_the_font_has():
    assert one_line(" a\n\tb\x00\u202ec ") == "a b c"
    assert one_line("$\\alpha µ α 日\ud800") == "$\\alpha µ α □"
    assert len(one_line("ab " * 9999)) == 161


# The outline.


def test_the_outline_is_the_masks_outermost_pixels():
    image, mask = noise(8, 9), np.zeros((8, 9), bool)
    mask[2:7, 3:8] = True
    before, mask_before = image.copy(), mask.copy()
    outlined = mask_outline(image, mask)
    ring = mask.copy()
    ring[3:6, 4:7] = False
    assert (outlined[ring] == OUTLINE).all()
    assert np.array_equal(outlined[~ring], image[~ring])
    assert np.array_equal(image, before)
    assert np.array_equal(mask, mask_before)
    assert not np.shares_memory(outlined, image)


def test_an_outline_follows_the_images_edge_and_an_empty_mask_has_none():
    image = noise(5, 6)
    whole = mask_outline(image, np.ones((5, 6), bool))
    assert np.array_equal(whole[1:-1, 1:-1], image[1:-1, 1:-1])
    assert (whole[0] == OUTLINE).all()
    assert (whole[:, -1] == OUTLINE).all()
    assert np.array_equal(mask_outline(image, np.zeros((5, 6), bool)), image)
    dot = np.zeros((5, 6), bool)
    dot[2, 2] = True
    assert len(where_colour(mask_outline(image, dot), OUTLINE)[0]) == 1


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), bool), r"the image is \(3, 8, 8\) uint8"),
        (np.zeros((8, 8, 3)), np.zeros((8, 8), bool), r"the image is \(8, 8, 3\) float64"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), bool), r"the mask is \(8, 9\) bool; .* needs \(8, 8\) bool"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), r"the mask is \(8, 8\) float64"),
    ],
)
def test_an_outline_of_something_else_is_refused(image, mask, message):
    with pytest.raises(ValueError, match=message):
        mask_outline(image, mask)


# What drawing leaves alone.


def test_a_users_settings_are_neither_used_nor_changed(tmp_path):
    import matplotlib

    def draw(name):
        loss_curves(tmp_path / f"c{name}.png", {"total": [3.0, 0.1]}, "title")
        image_grid(tmp_path / f"g{name}.png", {"a": [noise(9, 9)]}, ["caption"], "title")

    draw(1)
    hostile = {
        "text.usetex": True,
        "axes.facecolor": "black",
        "savefig.dpi": 20,
        "font.size": 30,
        "savefig.bbox": "tight",
    }
    with matplotlib.rc_context(hostile):
        before = dict(matplotlib.rcParams)
        draw(2)
        assert dict(matplotlib.rcParams) == before
    for kind in "cg":
        assert (tmp_path / f"{kind}1.png").read_bytes() == (tmp_path / f"{kind}2.png").read_bytes()


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = (
        "import sys, cellfeat.pictures as pictures\n"
        "loaded = lambda name: name in sys.modules\n"
        "print(loaded('matplotlib'))\n"
        "import matplotlib\n"
        "matplotlib.use('svg')\n"
        f"pictures.loss_curves({str(tmp_path / 'c.png')!r}, {{'total': [1, 2]}}, '')\n"
        f"pictures.image_grid({str(tmp_path / 'g.png')!r}, {{'a': [[[True]]]}})\n"
        "print(loaded('matplotlib.pyplot'), matplotlib.get_backend())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["False", "False", "svg"], "")
