"""What docs/formats.md tells users of scanpy and pandas to do works; the picture shows every class and laboratory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cellfeat import recipe, use
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.registry import installed
from cellfeat.workplace import Workplace

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "formats.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory) -> Path:
    """A folder with features.h5ad and features.parquet of 150 drawn cells of three laboratories."""
    folder = tmp_path_factory.mktemp("formats")
    manifest = write_demo(folder / "demo", per_class=10, size=32)
    parsed = recipe.parse({"dataset": {"manifest": str(manifest)}, "backbone": {"name": "colour", "bins": 4}})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CELLFEAT_CACHE", str(folder / "cache"))
        for name in ("features.h5ad", "features.parquet"):
            use.extract(parsed, folder / name, Workplace(installed(), SilentReporter(), "cpu"))
    return folder


def run(example: str, folder: Path, monkeypatch) -> dict:
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(example, str(PAGE), "exec"), names)
    return names


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_scanpy_draws_what_extract_wrote(extracted, monkeypatch, capsys):
    names = run(EXAMPLES[0], extracted, monkeypatch)
    cells, figure = names["cells"], names["figure"]
    assert cells.obsm["X_umap"].shape == (150, 2)
    assert np.isfinite(cells.obsm["X_umap"]).all()
    assert capsys.readouterr().out.splitlines()[-1] == "pooled colour"
    picture = np.asarray(Image.open(extracted / "umap.png").convert("RGB"))
    scale = picture.shape[1] / figure.get_window_extent().width
    for axes, column, count in zip(figure.axes, ("label", "domain"), (5, 3), strict=True):
        box = axes.get_window_extent()  # of the points, without the legend
        rows = slice(*(round(picture.shape[0] - scale * y) for y in (box.y1, box.y0)))
        panel = picture[rows, slice(*(round(scale * x) for x in (box.x0, box.x1)))]
        colours = [rgb(colour) for colour in cells.uns[f"{column}_colors"]]
        assert len(set(colours)) == len(cells.obs[column].cat.categories) == count
        for colour in colours:
            assert (panel == colour).all(axis=2).sum() > 20, f"{column}: no point of {colour}"
        assert (panel == 255).all(axis=2).mean() > 0.5, "points on white"


def test_pandas_reads_what_extract_wrote(extracted, monkeypatch, capsys):
    names = run(EXAMPLES[1], extracted, monkeypatch)
    assert names["vectors"].shape[0] == 150
    assert capsys.readouterr().out == "float32 {'lab-a': 50, 'lab-b': 50, 'lab-c': 50}\n"


def test_the_pages_picture_is_small_and_not_empty():
    path = ROOT / "docs" / "formats-umap.png"
    assert path.stat().st_size < 150_000
    assert len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0)) > 8


def test_cells_are_drawn_evenly_and_by_the_seed(tmp_path, monkeypatch):
    """`benchmarks/feature_map.py`, of which the picture is."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import feature_map

    manifest = tmp_path / "m.csv"
    rows = [("neutrophil_banded", 6), ("neutrophil_segmented", 6), ("monocyte", 2), ("platelet", 5)]
    lines = [f"a-{label}-{i},x/{i}.png,{label},a" for label, count in rows for i in range(count)]
    manifest.write_text("\n".join(["id,path,label,domain", *lines]))
    for name, seed in (("one.csv", 1), ("same.csv", 1), ("other.csv", 2)):
        feature_map.write_drawn(manifest, tmp_path / name, 7, seed)
    one, same, other = ((tmp_path / name).read_text() for name in ("one.csv", "same.csv", "other.csv"))
    assert one == same != other
    assert (one.count(",monocyte,"), one.count(",neutrophil_"), "platelet" in one) == (2, 5, False)
    assert f",{tmp_path}/x/" in one
