"""Figures: one drawing for page and file, text that stays text, colours that every eye and both themes can use."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from reporting import SCORED, drawn_texts

from cellfeat import CellfeatError, figures, page, rendering
from cellfeat.data_figures import class_counts, grey_levels
from cellfeat.feature_figures import Side, check_method, embed, embeddings, invariance
from cellfeat.figures import COLOURS, Figure, Panel
from cellfeat.invariance import domain_classifiers
from cellfeat.observation_files import Sample
from cellfeat.prediction_figures import confusions
from cellfeat.reliability_figures import calibration

HOSTILE = '</text><script>alert(1)</script><img src=x onerror="alert(1)">&$\\frac{1}{0}$_^#b34700 id="a"'


def panel(name: str = HOSTILE) -> Panel:
    def draw(figure, points):
        axes = figure.add_subplot()
        figures.plain_axes(axes, points, grid="x")
        line = axes.plot([0, 1], [0, 1], color=COLOURS[1])
        figures.named_ticks(axes, "y", [name, "_second"], points)
        figures.legend(figure, [*line, *line], [name, "_second"], points)

    return Panel(name, draw, f"a line called {name}")


def test_a_text_of_the_data_stays_a_text():
    text = rendering.for_page(panel(), "p")
    shown = drawn_texts(text)
    assert shown.count(figures.printable(HOSTILE)) == 2
    assert shown.count("_second") == 2
    assert "<script" not in text
    assert not {element.tag for element in ElementTree.fromstring(text).iter()} & {"script", "img"}
    assert ElementTree.fromstring(text).get("aria-label").startswith("</text><script>")
    whole = figures.printable('<b id="x">#d55e00 $a$</b>', 100)
    assert whole in drawn_texts(rendering.for_page(panel('<b id="x">#d55e00 $a$</b>'), "p"))


def test_on_a_page_every_colour_is_one_of_the_themes():
    for one in (panel(), *confusions([SCORED]).panels, *calibration([SCORED]).panels):
        root = ElementTree.fromstring(rendering.for_page(one, "p"))
        styles = " ".join(element.get("style", "") for element in root.iter())
        assert "var(--" in styles
        assert set(re.findall(r"#[0-9a-f]{3,8}\b", styles)) <= {"#000000"}, styles
        assert not re.search(r"font:|font-family", styles), "the page's own fonts are used"


def test_a_page_gets_the_same_svg_twice_and_ids_of_its_own():
    first, second = rendering.for_page(panel(), "a"), rendering.for_page(panel(), "a")
    assert first == second
    other = rendering.for_page(panel(), "b")
    roots = [list(ElementTree.fromstring(text).iter()) for text in (first, other)]
    ids = [{element.get("id") for element in root} - {None} for root in roots]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in ((first, ids[0]), (other, ids[1])):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) == own


def test_the_palette_is_the_light_theme_of_the_pages():
    style = (page.TEMPLATES / page.SHARED_STYLE).read_text()
    light = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", style.partition("}")[0]))
    assert [light[f"--c{i}"] for i in range(8)] == list(COLOURS)
    named = {"paper": figures.PAPER, "ink": figures.INK, "quiet": figures.QUIET, "line": figures.LINE}
    assert {name: light[f"--{name}"] for name in named} == named
    assert light["--faint"] == figures.FAINT


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: str, paper: str, alpha: float) -> str:
    pairs = zip((colour, paper), (alpha, 1 - alpha), strict=True)
    sums = np.sum([[share * int(one[i : i + 2], 16) for i in (1, 3, 5)] for one, share in pairs], axis=0)
    return "#" + "".join(f"{round(value):02x}" for value in sums)


@pytest.mark.parametrize("theme", [0, 1])
def test_marks_and_text_are_seen_in_both_themes(theme):
    from cellfeat.prediction_figures import STRONGEST

    blocks = (page.TEMPLATES / page.SHARED_STYLE).read_text().split("}")
    colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", blocks[theme]))
    paper, ink = colours["--paper"], colours["--ink"]
    for number in range(8):
        assert contrast(colours[f"--c{number}"], paper) > 3, f"--c{number}"
    for number in (0, 1):  # the cells of a confusion matrix, as full as they get
        assert contrast(ink, mixed(colours[f"--c{number}"], paper, STRONGEST)) > 4.5


# Machado, Oliveira and Fernandes 2009, severity 1: what is left of linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


FIRST = [COLOURS[place] for place in figures.ORDER[:5]]


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_first_five_colours_differ_for_the_colour_blind(kind):
    import cv2

    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in FIRST])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1)
    back = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(back[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    for one, other in combinations(range(5), 2):
        assert np.linalg.norm(lab[one] - lab[other]) > 12, (FIRST[one], FIRST[other])


def test_kinds_beyond_the_colours_differ_by_their_marks():
    kinds = [tuple(figures.kind_of(number).values()) for number in range(32)]
    assert len(set(kinds)) == 32


@pytest.mark.parametrize("kind", rendering.FORMATS)
def test_a_file_is_made_and_replaced_but_nobody_elses(tmp_path, kind):
    figure = Figure("line", "A line", "", [panel(), panel("b")])
    (path,) = rendering.save(figure, tmp_path / "new", kind)
    before = path.read_bytes()
    assert path.name == f"line.{kind}"
    assert rendering.save(figure, tmp_path / "new", kind) == [path]
    assert path.read_bytes() == before
    path.write_bytes(b"my own")
    with pytest.raises(CellfeatError, match=rf"line\.{kind} exists and was not made by cellfeat report; move it away"):
        rendering.save(figure, tmp_path / "new", kind)
    assert path.read_bytes() == b"my own"


def test_a_file_has_the_size_of_columns_in_mm_and_text_as_text(tmp_path):
    (path,) = rendering.save(Figure("two", "", "", [panel("a$x$"), panel("b")]), tmp_path, "svg")
    root = ElementTree.fromstring(path.read_bytes())
    assert (root.get("width"), root.get("height")) == ("178mm", "60mm")
    texts = [element.text for element in root.iter() if element.text]
    assert "a$x$" in texts
    style = next(element.get("style") for element in root.iter() if element.tag.endswith("}text"))
    assert "Helvetica, Arial" in style
    (png,) = rendering.save(Figure("one", "", "", [panel("a")]), tmp_path, "png")
    assert Image.open(png).size == pytest.approx((89 / 25.4 * 300, 60 / 25.4 * 300), abs=1)


@pytest.mark.parametrize("kind", rendering.FORMATS)
def test_a_file_that_only_speaks_of_us_is_not_replaced(tmp_path, kind):
    path = tmp_path / f"line.{kind}"
    path.write_text("<svg><text>Made by cellfeat report</text></svg> /Creator (Made by cellfeat report)")
    with pytest.raises(CellfeatError, match="was not made by cellfeat report"):
        rendering.save(Figure("line", "", "", [panel("a")]), tmp_path, kind)
    assert path.read_text().startswith("<svg><text>")


def test_names_of_figures_cannot_leave_the_folder(tmp_path):
    inside, taken = tmp_path / "figures", set()
    for name in ("embedding-/../../../../evil", "embedding-evil", "Embedding evil"):
        rendering.save(Figure(name, "", "", [panel("a")]), inside, "svg", taken)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.svg"))
    assert files == ["figures/embedding-evil-2.svg", "figures/embedding-evil-3.svg", "figures/embedding-evil.svg"]


def test_names_of_files_cannot_leave_the_folder(tmp_path):
    figure = Figure("f", "", "", [panel("../../x"), panel("..\\x"), panel("…")], apart=True)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in rendering.save(figure, tmp_path, "svg"))
    assert names == ["f-figure.svg", "f-x-2.svg", "f-x.svg"]


def test_a_name_is_cut_in_its_middle_and_has_no_control_characters():
    assert figures.printable("a\u202eb\n\tc") == "a b c"
    long = figures.printable("abc" * 20)
    assert len(long) == 28
    assert long[:5] == "abcab"
    assert long[-5:] == "bcabc"


def summary(domains, classes=("a", "b")):
    counts = {
        name: {"classes": dict(zip(classes, values, strict=True)), "unlabelled": 0, "dropped": {}}
        for name, values in domains.items()
    }
    level = {"images": 3, "millionths": [0] * 100 + [1_000_000] + [0] * 155}
    frame = dict.fromkeys(domains, level)
    return {"classes": list(classes), "domains": counts, "grey_levels": {"frame": frame, "cell": {}, "masks": None}}


def test_counts_and_grey_levels_say_their_n_and_what_is_not_drawn():
    data = summary({f"lab {i}": (i, 3) for i in range(11)})
    counts = class_counts(data)
    assert "n = 88 in all" in counts.caption
    assert "Without any cell: a in lab 0." in counts.caption
    assert "Drawn are the first 8 laboratories" in counts.caption
    assert counts.numbers.rows[0][-1] == "10"
    grey = grey_levels(data)
    assert "Drawn are the first 8" in grey.caption
    assert "Cells are cut out" not in grey.caption
    assert list(grey.numbers.rows[0]) == ["lab 0", "Whole images", "3", "100.0", "0.0", "100", "100", "100"]
    assert len(grey.panels) == 1
    assert grey_levels({**data, "grey_levels": None}) is None


def sample(n=60, spread=1.0):
    rng = np.random.default_rng(0)
    domain, label = np.repeat(["a", "b"], n // 2), np.tile(["x", ""], n // 2)
    values = rng.normal(size=(n, 4)) + spread * (domain == "b")[:, None]
    ids = np.arange(n).astype(str)
    return Sample(ids, domain, label, ids, values.astype(np.float32))


def test_a_map_of_features_says_how_many_cells_and_what_was_seen():
    one = sample(spread=5)
    found = domain_classifiers(one.values, one.domain)
    side = Side("features", embed(one, "tsne", seed=0, most=40), found, {"width": 256, "explained": 0.875})
    again = embed(one, "tsne", seed=0, most=40)
    np.testing.assert_array_equal(side.embedded.places, again.places)
    figure = embeddings(side, ["x"], "tsne", "It was shown cells.")
    assert [panel.title for panel in figure.panels] == ["by class", "by laboratory"]
    for said in (
        "n = 40 of a sample of 60",
        "4 principal components of the 256 features, which hold 87.5 % of their variance",
        "It was shown cells.",
        "In all 60 sampled cells the laboratory, one of 2,",
        "100.0 % by a linear classifier and of 100.0 %",
        "(chance 50.0 %)",
    ):
        assert said in figure.caption
    assert "before alignment" not in figure.caption
    later = embeddings(side._replace(name="after, pipeline of s"), ["x"], "tsne", "", before=side)
    assert later.title == "Features after alignment, pipeline of s"
    assert "before alignment, in the same cells, 100.0 % and 100.0 %" in later.caption
    texts = drawn_texts(rendering.for_page(figure.panels[0], "p"))
    assert {"x (20)", "without a label (20)"} <= set(texts)


def test_domain_classifiers_say_their_cells_groups_and_intervals():
    one = sample(spread=5)
    found = domain_classifiers(one.values, one.domain)
    figure = invariance({"before alignment": found, "after, pipeline of a": found._replace(cells=40)})
    for said in (
        "n = 60 cells of 2 laboratories or 40 cells of 2 laboratories",
        "neither on it nor on another cell of its group",
        "intervals over groups where these repeat, and over cells where they do not",
    ):
        assert said in figure.caption
    assert list(figure.numbers.rows[0])[:4] == ["before alignment", "60", "2", "100.0"]
    assert invariance({}) is None


def test_few_or_equal_cells_have_places_too():
    assert embed(sample(4), "tsne", 0).places.shape == (4, 2)
    same = sample(20)._replace(values=np.ones((20, 1), np.float32))
    assert np.isfinite(embed(same, "tsne", 0).places).all()


def test_an_unknown_embedding_and_one_without_its_package_are_refused(monkeypatch):
    with pytest.raises(CellfeatError, match=r"no embedding named 'pca'.*Available: tsne, umap"):
        check_method("pca")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(CellfeatError, match=r'needs umap-learn, .*: pip install "cellfeat\[report\]"'):
        check_method("umap")


def test_points_share_one_style():
    one = embed(sample(60), "tsne", 0)
    text = rendering.for_page(embeddings(Side("features", one, None), ["x"], "tsne").panels[0], "p")
    assert text.count("<use ") >= 60
    assert all("style" not in use for use in re.findall(r"<use [^>]*>", text)[:60])
    assert len(text) < 12_000


def test_every_drawing_module_is_imported_without_matplotlib():
    import subprocess
    import sys

    code = (
        "import sys, cellfeat.run_report; sys.exit(any(n in sys.modules for n in ('matplotlib', 'sklearn', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
