"""The programs in benchmarks/: they measure rightly cells whose answers are known, and a mistake is one line."""

from __future__ import annotations

import csv
import importlib
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas
import pytest
from PIL import Image
from test_layers import plugin_offences

from cellfeat import CellfeatError, cli, synthetic

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
FORWARD = "benchmarks.speed.forward"
SPEED = ("end_to_end", "training", "scaling", "classifiers", "ray", "leaderboard", "plugins_help", "startup")
PROGRAMS = (
    "detection",
    "masks",
    "smears",
    "few_masks",
    "representation",
    "trust",
    "novelty",
    FORWARD,
    *(f"benchmarks.speed.{name}" for name in SPEED),
)
FRAME = 224


@pytest.fixture(autouse=True)
def programs_beside_each_other(monkeypatch):
    """As Python does for a program that is started by its path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER.parent))


def module(name: str):
    return importlib.import_module(name)


def run(monkeypatch, name: str, *arguments: object) -> None:
    """A program as from the command line, in this process."""
    program = module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        module("common").start(program.main)
    if end.value.code:
        raise end.value


def drawn_manifest(folder: Path, count: int, size: int = FRAME, domains: tuple[str, ...] = ("a",)) -> Path:
    """So many drawn cells of every domain with their masks; the classes take turns."""
    rng = np.random.default_rng(0)
    with (folder / "cells.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "label", "domain", "mask_path"])
        for domain in domains:
            for number in range(count):
                cell = synthetic.draw_cell(synthetic.CLASSES[number % 5], "lab-a", rng, size=size)
                name = f"{domain}{number:03}"
                Image.fromarray(cell.image).save(folder / f"{name}.png")
                Image.fromarray(cell.mask).save(folder / f"{name}-mask.png")
                writer.writerow([name, f"{name}.png", cell.label, domain, f"{name}-mask.png"])
    return folder / "cells.csv"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_programs_use_the_public_api_alone(path):
    assert plugin_offences(path.read_text(), path.stem) == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_option_is_explained(name, monkeypatch, capsys):
    run(monkeypatch, name, "--help")
    text = capsys.readouterr().out
    assert "--json" in text
    options = [line for line in text.splitlines() if line.lstrip("│ *").startswith("--")]
    assert options
    assert all(len(line.strip("│ ").split(None, 2)) > 1 for line in options)


def test_the_readme_names_every_program():
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*.sh")])


# what is shared


def test_rows_are_those_with_masks_spaced_over_each_domain(tmp_path):
    common, manifest = module("common"), drawn_manifest(tmp_path, 5, 32, ("b", "a"))
    with manifest.open("a", newline="") as file:
        csv.writer(file).writerow(["a999", "a000.png", "neutrophil", "a", ""])
    rows = common.read_rows(manifest)
    assert [row.id for row in rows] == [f"{domain}{number:03}" for domain in "ab" for number in range(5)]
    assert [row.id for row in common.read_rows(manifest, limit=3)] == ["a000", "a002", "a004", "b000", "b002", "b004"]
    assert [row.id for row in common.read_rows(manifest, ["b"], limit=1)] == ["b000"]


def test_a_nucleus_is_only_told_by_a_mask_of_several_levels(tmp_path):
    common, manifest = module("common"), drawn_manifest(tmp_path, 1, 64)
    (row,) = common.read_rows(manifest)
    levels = np.asarray(Image.open(row.mask_path))
    cell = common.read_cell(row, None)
    np.testing.assert_array_equal(cell.cell, levels > 0)
    np.testing.assert_array_equal(cell.nucleus, levels == 255)
    assert common.read_cell(row, 32).image.shape == (32, 32, 3)
    assert common.read_cell(row, 32).nucleus.shape == (32, 32)
    Image.fromarray((levels > 0).astype(np.uint8) * 255).save(row.mask_path)
    assert common.read_cell(row).nucleus is None, "a plain mask is no nucleus as large as the cell"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.csv",), "No such file"),
        (("cells.csv", "--domain", "z"), "no domain 'z' with masks; it has: a"),
        (("cells.csv", "--segmenter", "otsuu"), "Did you mean 'otsu'"),
        (("cells.csv", "--weights", "w.safetensors", "--segmenter", "lora-sam"), "w.safetensors"),
        (("bare.csv",), "no column domain, path"),
        (("unmasked.csv",), "no row has a mask_path"),
        (("other.csv", "--segmenter", "otsu"), "its image (32, 32) px; they must be alike"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    drawn_manifest(tmp_path, 1, 32)
    (tmp_path / "bare.csv").write_text("id\nx\n")
    (tmp_path / "unmasked.csv").write_text("id,path,label,domain\nx,a000.png,l,a\n")
    Image.new("L", (40, 32), 255).save(tmp_path / "wide.png")
    (tmp_path / "other.csv").write_text("id,path,label,domain,mask_path\nx,a000.png,l,a,wide.png\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "masks", *arguments)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error:")
    assert message in text
    assert text.count("\n") == 1


def test_the_interval_is_of_the_mean_and_seeded():
    interval = module("common").interval
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    low, high = interval(values)
    # the standard error is 0.1 / 20; the interval 1.96 of it to both sides
    np.testing.assert_allclose([low, high], values.mean() + np.array([-1.96, 1.96]) * values.std() / 20, atol=1.5e-3)
    assert interval(values) == (low, high)
    assert interval([0.5] * 3) == (0.5, 0.5)


# masks.py


class Known:
    """A segmenter that knows the truth of some frames and errs on others as it is told."""

    def __init__(self, cells, cuts, quality=None):
        self.answers = {cell.image.tobytes(): (cell, cut) for cell, cut in zip(cells, cuts, strict=True)}
        self.guess = None if quality is None else dict(zip(self.answers, quality, strict=True))

    def _of(self, images, part):
        found = []
        for image in images.numpy().transpose(0, 2, 3, 1):
            cell, cut = self.answers[np.ascontiguousarray(image).tobytes()]
            mask = cell.cell if part == "cell" else cell.nucleus
            mask = np.zeros(cell.cell.shape, bool) if mask is None else mask.copy()
            inside = np.flatnonzero(mask)
            mask.flat[inside[: round(cut * len(inside))]] = False
            found.append(mask)
        return module("torch").from_numpy(np.stack(found))

    def segment(self, images):
        return self._of(images, "cell")

    def nuclei(self, images):
        return self._of(images, "nucleus")


class KnownBackbone(Known):
    def encode(self, images):
        frames = [np.ascontiguousarray(image).tobytes() for image in images.numpy().transpose(0, 2, 3, 1)]
        quality = module("torch").tensor([self.guess[frame] for frame in frames])
        return SimpleNamespace(mask=self.segment(images), quality=quality)


CUTS = (0.0, 0.1, 0.3, 0.6)  # share of the mask that is missed: the IoU is the rest


def judged(tmp_path, kind, quality=None):
    common, manifest = module("common"), drawn_manifest(tmp_path, 4)
    rows = common.read_rows(manifest)
    levels = np.asarray(Image.open(rows[0].mask_path))
    Image.fromarray((levels > 0).astype(np.uint8)).save(rows[0].mask_path)
    cells = [common.read_cell(row) for row in rows]
    return module("masks").judge(kind(cells, CUTS, quality), rows)


def test_masks_are_judged_as_they_are(tmp_path):
    found = judged(tmp_path, Known)
    assert found["cell"]["mean"] == pytest.approx(0.75, abs=1e-3)
    assert found["cell"]["median"] == pytest.approx(0.8, abs=1e-3)
    assert found["cell"]["below_half"] == 0.25
    assert found["cell"]["low"] < 0.75 < found["cell"]["high"]
    assert found["nucleus"]["cells"] == 3, "the first mask tells no nucleus"
    assert found["nucleus"]["mean"] == pytest.approx((0.9 + 0.7 + 0.4) / 3, abs=2e-3)
    assert found["quality"] is None


def test_a_predicted_quality_is_compared_with_the_true_one(tmp_path):
    found = judged(tmp_path, KnownBackbone, (0.95, 0.7, 0.85, 0.1))["quality"]
    assert found["flagged"] == 2
    assert found["bad"] == 2
    assert found["bad_flagged"] == 0.5, "of the cells of IoU 0.7 and 0.4 the second is flagged"
    assert found["spearman"] == pytest.approx(0.8)  # ranks 4 2 3 1 against 4 3 2 1


def test_what_cannot_be_said_of_a_quality_is_none():
    worth = module("quality").worth
    assert worth([0.9, 0.9], [0.85, 0.95])["spearman"] is None
    assert worth([0.9, 0.7], [0.85, 0.95])["bad_flagged"] is None


def test_masks_program_writes_a_line_for_each_segmenter_and_domain(tmp_path, monkeypatch, capsys):
    manifest = drawn_manifest(tmp_path, 2, 64, ("a", "b"))
    run(monkeypatch, "masks", manifest, "--segmenter", "otsu", "--limit", 1, "--json", tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(one["segmenter"], one["domain"], one["cell"]["cells"]) for one in written] == [
        ("otsu", "a", 1),
        ("otsu", "b", 1),
    ]
    assert set(written[0]["versions"]) >= {"cellfeat", "torch", "python"}
    table = capsys.readouterr().out
    assert f"{written[0]['cell']['mean']:.3f}" in table


# smears.py


def real_cells(count: int) -> list:
    """Drawn cells in sparse fields, which stand for real ones."""
    common, rng = module("common"), np.random.default_rng(5)
    drawn = [synthetic.draw_cell(synthetic.CLASSES[number % 5], "lab-a", rng, size=96) for number in range(count)]
    return [common.Cell(cell.image, cell.mask > 0, cell.mask == 255) for cell in drawn]


def test_drawn_crops_are_touched_and_seeded():
    crops = module("smear_crops")
    first, again = ([*crops.drawn_crops(4, np.random.default_rng(3))] for _ in range(2))
    other = next(crops.drawn_crops(1, np.random.default_rng(4)))
    assert [np.array_equal(a.cell.image, b.cell.image) for a, b in zip(first, again, strict=True)] == [True] * 4
    assert not np.array_equal(first[0].cell.image, other.cell.image)
    assert all(crop.touched >= crops.TOUCHED for crop in first)
    assert all((crop.cell.nucleus <= crop.cell.cell).all() and crop.cell.cell.any() for crop in first)


def test_pasted_crops_show_the_cell_itself_among_others(monkeypatch):
    crops, cells = module("smear_crops"), real_cells(9)
    monkeypatch.setattr(crops, "HOSTS", 4)
    monkeypatch.setattr(crops, "_is_clean", lambda host: True)
    found = [*crops.pasted_crops(cells, 9, np.random.default_rng(0))]
    areas = sorted(int(cell.cell.sum()) for cell in cells)
    assert sorted(int(crop.cell.cell.sum()) for crop in found) == areas, "every cell is pasted once, whole"
    for crop in found:
        (own,) = [cell for cell in cells if cell.cell.sum() == crop.cell.cell.sum()][:1]
        deep = cv2.erode(crop.cell.cell.astype(np.uint8), np.ones((9, 9))) > 0
        there = cv2.erode(own.cell.astype(np.uint8), np.ones((9, 9))) > 0
        np.testing.assert_allclose(crop.cell.image[deep].astype(int), own.image[there].astype(int), atol=1)
        assert crop.cell.nucleus.sum() == own.nucleus.sum()
        rows, columns = np.nonzero(crop.cell.cell)
        assert abs(rows.mean() / len(crop.cell.cell) - 0.5) < 0.08
        assert 0.4 < (max(np.ptp(rows), np.ptp(columns)) + 1) / len(crop.cell.cell) < 0.66


def test_another_white_cell_is_laid_against_the_rim():
    crops, (own, other) = module("smear_crops"), real_cells(2)
    host = crops._host(other)
    whole = np.pad(own.cell, 12)
    mask = host.mask
    left = crops._beside(whole, mask, 12)
    there = crops._placed(mask, 12, left, np.zeros(whole.shape, bool))
    apart = crops._placed(mask, 12, left + 1, np.zeros(whole.shape, bool))
    assert 0 < (there & whole).sum() < 0.05 * whole.sum()
    assert not (apart & whole).any()


def test_a_field_never_comes_from_the_same_image(monkeypatch):
    crops, cells = module("smear_crops"), real_cells(4)
    hosts = [crops._host(cell) for cell in (*cells, cells[0])]
    seen = []
    monkeypatch.setattr(crops, "_layer", lambda whole, host, *_: seen.append(host) or np.ones((*whole.shape, 3)))
    crops._pasted(hosts[0], hosts, np.random.default_rng(0))
    assert seen
    assert not any(np.array_equal(host.cell.image, cells[0].image) for host in seen)


def test_the_rim_that_neighbours_reach_is_counted():
    crops = module("smear_crops")
    whole = np.zeros((60, 60), bool)
    whole[20:40, 20:40] = True
    clear = np.ones((60, 60, 3))
    assert crops.touched(clear, whole) == 0
    clear[:, :30] = 0.7
    assert crops.touched(clear, whole) == pytest.approx(0.5, abs=0.06)
    clear[:] = 1.0
    clear[24:36, 24:36] = 0.2
    assert crops.touched(clear, whole) == 0, "what lies under the cell is no neighbour"


def test_surroundings_with_a_seam_or_a_second_cell_are_not_used():
    crops, (cell,) = module("smear_crops"), real_cells(1)
    plain = np.full((96, 96, 3), 220, np.uint8)
    plain[cell.cell] = 90
    host = lambda image: crops._host(module("common").Cell(image, cell.cell, None))  # noqa: E731
    assert crops._is_clean(host(plain))
    seam, second = plain.copy(), plain.copy()
    seam[-12:] = 190
    second[:14, :14] = (60, 20, 120)
    assert not crops._is_clean(host(seam))
    assert not crops._is_clean(host(second))


def test_too_few_cells_to_paste_are_refused():
    with pytest.raises(CellfeatError, match="more than 24 are needed"):
        next(module("smear_crops").pasted_crops(real_cells(3), 1, np.random.default_rng(0)))


def test_the_spread_of_smears_is_over_seeds():
    found = module("smears").figures([[0.8, 1.0], [0.6, 0.4]])
    assert found["mean"] == pytest.approx(0.7)
    assert found["spread"] == pytest.approx(np.std([0.9, 0.5], ddof=1))
    assert found["below_half"] == 0.25


def test_smears_program_shows_its_crops(tmp_path, monkeypatch, capsys):
    arguments = ("--crops", 2, "--seed", 1, "--seed", 2, "--segmenter", "otsu", "--pictures", tmp_path / "sheets")
    run(monkeypatch, "smears", *arguments)
    assert "2 × 2" in capsys.readouterr().out
    width, height = Image.open(tmp_path / "sheets" / "drawn.png").size
    assert width > 224
    assert height > 3 * 112, "crop, true mask and otsu"


def test_smears_say_what_a_predicted_quality_is_worth(tmp_path, monkeypatch, capsys):
    arguments = ("--crops", 2, "--seed", 1, "--segmenter", "lora-sam", "--json", tmp_path / "out.jsonl")
    run(monkeypatch, "smears", *arguments)
    (found,) = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert abs(found["quality"]["mean_error"]) < 0.3
    assert abs(found["quality"]["spearman"]) == pytest.approx(1)  # of two
    assert "Predicted IoU against the true one" in capsys.readouterr().out


# few_masks.py


def tecom_rows(count: int = 300) -> list:
    Row = module("common").Row
    return [Row(f"tecom_{n:03}", "tecom", Path(f"{n}.png"), Path(f"{n}-m.png")) for n in range(1, count + 1)]


def test_draws_take_their_share_of_both_backgrounds():
    few, rows = module("few_masks"), tecom_rows()
    twins = [row.id for row in rows]
    chosen = {seed: few.draw(rows, twins, 50, np.random.default_rng(seed)) for seed in (1, 2)}
    for drawn in chosen.values():
        assert len(set(drawn.tolist())) == 50
        assert sum(few.background(rows[place]) == "yellow" for place in drawn) == 33
    assert set(chosen[1].tolist()) != set(chosen[2].tolist())
    np.testing.assert_array_equal(chosen[1], few.draw(rows, twins, 50, np.random.default_rng(1)))


def test_identical_images_are_drawn_together_or_not_at_all():
    few, rows = module("few_masks"), tecom_rows(40)
    twins = [f"pair {place // 2}" for place in range(40)]
    for seed in range(5):
        drawn = set(few.draw(rows, twins, 11, np.random.default_rng(seed)).tolist())
        assert len(drawn) == 10, "the eleventh would part a pair"
        assert all((place ^ 1) in drawn for place in drawn)


def test_twins_are_told_by_their_pixels(tmp_path):
    manifest = drawn_manifest(tmp_path, 3, 32)
    Image.open(tmp_path / "a000.png").save(tmp_path / "a002.png", compress_level=1)
    twins = module("few_masks").twins_of(module("common").read_rows(manifest))
    assert twins[0] == twins[2] != twins[1]


def test_nothing_left_to_judge_is_refused(tmp_path, monkeypatch, capsys):
    manifest = drawn_manifest(tmp_path, 2, 32)
    with pytest.raises(SystemExit):
        run(monkeypatch, "few_masks", manifest, "--domain", "a", "--masks", 2, "--out", tmp_path / "out")
    assert "nothing would be left to judge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_few_masks_tunes_and_judges_the_rest(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    manifest = drawn_manifest(tmp_path, 5, 64)
    arguments = ("--domain", "a", "--masks", 3, "--draws", 1, "--epochs", 1, "--batch-size", 2, "--device", "cpu")
    for out in ("one", "two"):
        json_file = tmp_path / f"{out}.jsonl"
        run(monkeypatch, "few_masks", manifest, *arguments, "--out", tmp_path / out, "--json", json_file)
    (first,), (second,) = ([json.loads(line) for line in (tmp_path / f"{n}.jsonl").open()] for n in ("one", "two"))
    assert first["masks"] == 3
    assert first["cells"] == 2
    assert first["seconds"] > 0
    assert second["seconds"] is None, "an adapter out of the cache took no time worth reporting"
    assert second["after"] == first["after"] != first["before"]
    assert (tmp_path / "one" / "seed-1234" / "adapter.json").is_file()
    written = [row["id"] for row in csv.DictReader((tmp_path / "one" / "seed-1234.csv").open())]
    assert written == first["drawn"]


# representation.py


def record(seed: int, value: float | None, target: str = "b", **about) -> dict:
    return {
        "target": target,
        "seed": seed,
        "held_out_folds": target == "a",
        "adapt": "test",
        "cells": 50,
        "scored_classes": ["x", "y"],
        "left_out": {},
        "weights_saw": ["drawn cells"],
        "scores": {"balanced_accuracy": {"mean": value}},
        "majority": {"balanced_accuracy": 0.5},
        "recipe": {"align": [{"name": "per-domain-z"}]},
        "dataset": {"digest": "d"},
        "backbone": {"weights_sha256": "s"},
        **about,
    }


def test_records_of_several_seeds_become_one_figure():
    (found,) = module("representation").figures([record(1, 0.6), record(2, 0.7), record(3, 0.8)], [1, 2, 3])
    assert found["balanced_accuracy"] == pytest.approx(70)
    assert found["spread"] == pytest.approx(10)
    assert found["align"] == "per-domain-z"
    assert found["majority"] == 50


def test_cells_that_the_weights_never_saw_are_scored_apart(tmp_path):
    """Twelve cells of x and twelve of y are named; of each, three are right in the first seed and all in the second."""
    rows = []
    for seed in (1, 2):
        for place in range(80):
            label = "xy"[place % 2]
            right = place >= 24 or seed == 2 or place < 6
            rows.append((seed, "a", f"{place}", label, label if right else "xy"[1 - place % 2]))
    rows += [(1, "b", "0", "x", "y")]
    pandas.DataFrame(rows, columns=["seed", "target", "id", "label", "predicted"]).to_parquet(tmp_path / "p.parquet")
    written = [record(seed, 0.9, target, classes=["w", "x", "y"]) for seed in (1, 2) for target in "ab"]
    ids = frozenset(str(place) for place in range(24))
    program = module("representation")
    found = program.only(ids, written, tmp_path / "p.parquet", "a")
    assert [one["scores"]["balanced_accuracy"]["mean"] for one in found] == [0.25, 1.0]
    assert {one["target"] for one in found} == {program.UNSEEN}
    assert found[0]["cells"] == 24
    assert found[0]["scored_classes"] == ["x", "y"]
    with pytest.raises(CellfeatError, match="25 ids of unseen cells were given, 24 of them are in a"):
        program.only(ids | {"nobody"}, written, tmp_path / "p.parquet", "a")


def test_figures_need_every_seed_and_enough_cells():
    figures = module("representation").figures
    with pytest.raises(CellfeatError, match="not one per seed"):
        figures([record(1, 0.6)], [1, 2])
    with pytest.raises(CellfeatError, match="no class with 10 cells"):
        figures([record(1, None)], [1])


def test_the_markdown_tells_adaptation_and_what_was_seen():
    program = module("representation")
    found = [
        {"task": "five-class", "classifier": "lr", **one}
        for one in program.figures([record(1, 0.9, "a"), record(1, 0.5, "b"), record(1, 0.25, "c")], [1])
    ]
    lines = program.markdown(found, "a", ("b", "c"))
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[2] == "| five-class | lr | per-domain-z | test | 90.0 ± 0.0 | 50.0 ± 0.0 | 25.0 ± 0.0 |"
    assert any("b: 2 classes" in line for line in lines)
    assert any("drawn cells" in line for line in lines)


def test_a_target_that_is_the_source_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "representation", "cells.csv", "--source", "a", "--target", "a")
    assert "--target a is the source" in capsys.readouterr().err


@pytest.fixture
def runs_in_this_process(monkeypatch):
    """`cellfeat run` without a process that imports everything; the ids of a fold, below, come of a real one."""

    def main(command: list[str], stdout: int) -> subprocess.CompletedProcess:
        assert command[:3] == [sys.executable, "-m", "cellfeat"]
        assert stdout == subprocess.DEVNULL
        monkeypatch.setattr(sys, "argv", ["cellfeat", *command[3:]])
        with redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as end:
            cli.main()
        return subprocess.CompletedProcess(command, end.value.code or 0)

    standing_in = SimpleNamespace(run=main, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(module("representation"), "subprocess", standing_in)


def test_representation_asks_cellfeat_run(runs_in_this_process, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    manifest = drawn_manifest(tmp_path, 50, 32, ("a", "b", "c"))
    arguments = ("--source", "a", "--target", "b", "--target", "c", "--backbone", "colour", "--folds", 2)
    arguments += ("--seed", 1, "--seed", 2, "--clf", "lr", "--out", tmp_path / "runs", "--json", tmp_path / "r.jsonl")
    (tmp_path / "ids.txt").write_text("\n".join(f"a{i:03d}" for i in range(50)))
    run(monkeypatch, "representation", manifest, *arguments, "--unseen", tmp_path / "ids.txt")
    written = [json.loads(line) for line in (tmp_path / "r.jsonl").open()]
    assert [(one["task"], one["align"], one["adapt"], one["target"]) for one in written] == [
        ("ten-class", "none", "none", "a"),
        ("ten-class", "none", "none", "unseen"),
        *(("five-class", "none", "none", target) for target in "abc"),
        *(("five-class", "per-domain-z", "test", target) for target in "abc"),
    ]
    assert all(len(one["by_seed"]) == 2 for one in written)
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert capsys.readouterr().out.startswith("| task |")


# fold_ids.py


def test_the_ids_of_a_fold_are_those_that_a_run_holds_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    manifest = drawn_manifest(tmp_path, 30, 32, ("a", "b"))
    shared = ("--source", "a", "--folds", "3", "--labels", "five-class")
    options = ["--backbone", "colour", "--align", "none", "--clf", "lr", "--set", "protocol.seeds=[5]"]
    module("representation").run(["--data", str(manifest), *options, *shared], tmp_path / "run")
    table = pandas.read_parquet(tmp_path / "run" / "predictions.parquet")
    capsys.readouterr()
    for fold in range(3):
        run(monkeypatch, "fold_ids", tmp_path / "run", "--source", "a", "--fold", fold, "--seed", 5)
        held_out = table[(table.target == "a") & (table.fold == fold)].id
        assert capsys.readouterr().out.split() == sorted(held_out)
        assert len(held_out) == 10
    with pytest.raises(SystemExit):
        run(monkeypatch, "fold_ids", tmp_path / "run", "--source", "a", "--fold", 3, "--seed", 5)
    assert "possible folds: [0, 1, 2]" in capsys.readouterr().err


# speed/


def test_the_plain_way_runs_the_same_network(context, one_thread):
    from cellfeat import Workplace

    forward, work = module(FORWARD), Workplace.on_terminal("cpu")
    backbone = work.registry.create("backbone", "lora-sam", {"weights": "cell-tiny"}, context)
    frames = forward.drawn(2, backbone.image_size)
    plain = forward.plain_network("cell-tiny", backbone, frames)
    mask, embedding = plain(frames[0])
    assert mask.any()
    assert not mask.all()
    assert embedding.shape[1:] == (14, 14)
    np.testing.assert_allclose(plain.tokens[0], backbone.encode(frames).embedding[0], rtol=1e-3, atol=1e-3)
    other = SimpleNamespace(
        image_size=backbone.image_size, encode=lambda images: SimpleNamespace(mask=~backbone.encode(images).mask)
    )
    with pytest.raises(CellfeatError, match="it is not the same one"):
        forward.plain_network("cell-tiny", other, frames)


@pytest.mark.slow
def test_the_forward_pass_is_measured_in_every_way(tmp_path, monkeypatch, capsys):
    arguments = ("--weights", "cell-tiny", "--threads", 1, "--batch", 1, "--repeats", 1)
    run(monkeypatch, FORWARD, *arguments, "--json", tmp_path / "s.jsonl")
    written = {one["way"]: one for one in map(json.loads, (tmp_path / "s.jsonl").open())}
    assert len(written) == 6
    assert all(one["items_per_second"] > 0 for one in written.values())
    assert written[module(FORWARD).PLAIN]["ratio"] == 1
    assert 0 < written["lora-sam, float32"]["tokens_rms_error"] < 1e-4, "against the plain way, not against itself"
    assert 0 < written["lora-sam, bf16"]["tokens_rms_error"] < 0.05
    assert "two passes" in capsys.readouterr().out
    import torch

    assert torch.get_float32_matmul_precision() == "highest"


def test_ways_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    measure, calls = module("benchmarks.speed.measure"), []
    clock = iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    ways = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert measure.interleaved(ways, 2) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert calls == ["a", "b"] * 3
    rows = measure.records("stage", {"a": [4.0, 8.0, 6.0], "b": [2.0, 2.0, 3.0]}, "a", 12)
    assert [(row["ratio"], row["ratio_range"], row["items_per_second"]) for row in rows] == [
        (1.0, [1.0, 1.0], 2.0),
        (3.0, [2.0, 4.0], 6.0),
    ]


@pytest.mark.slow
def test_files_to_store_are_measured(tmp_path, monkeypatch, capsys):
    arguments = ("--images", 10, "--parts", 1, "--weights", "cell-tiny", "--threads", 1)
    run(monkeypatch, "benchmarks.speed.end_to_end", *arguments, "--json", tmp_path / "e.jsonl")
    written = [json.loads(line) for line in (tmp_path / "e.jsonl").open()]
    assert [one["images"] for one in written] == [10] * 3
    assert all(one["bytes_per_image"] > 768 * 14 * 14 / 4 for one in written)
    assert "kB on disk per image" in capsys.readouterr().out


def test_crops_are_measured_and_are_those_of_scipy(tmp_path, monkeypatch):
    run(monkeypatch, "benchmarks.speed.training", "--stage", "crops", "--repeats", 1, "--json", tmp_path / "c.jsonl")
    plain, ours = [json.loads(line) for line in (tmp_path / "c.jsonl").open()]
    assert plain["ratio"] == 1
    assert ours["ratio"] > 0  # how large it is depends on what else the machine does: the benchmark says, no test
    assert ours["ratio"] != 1
    assert ours["pixels_differ"] <= 1e-5


def test_the_plain_autoencoder_is_as_large_as_cellfeats():
    import torch
    from cellfeat_cae.network import CrossDomainAutoencoder

    plain = module("benchmarks.speed.plain_cae")
    with torch.device("meta"):
        numbers = [sum(value.numel() for value in network.parameters()) for network in (plain.PlainCae(),)]
        numbers.append(sum(v.numel() for v in CrossDomainAutoencoder(768, 12, 12, 4, 512, 50).parameters()))
    assert numbers[0] == numbers[1]


def test_json_lines_become_tables_and_a_plot(tmp_path, monkeypatch, capsys):
    machine = {"hardware": {"cpu": "a chip", "cores": 2, "threads": 2}, "versions": {"torch": "9"}}
    ratio = {"benchmark": "forward", "stage": "forward", "way": "ours", "items_per_second": 4.8, "ratio": 1.734}
    ratio |= {"ratio_range": [1.6, 1.8], "of_peak": 0.83, "weights": "w"}
    sizes = [
        {"benchmark": "scaling", "backbone": "b", "cells": cells, "seconds": 2.0, "images_per_second": cells / 2}
        | {"peak_bytes": 7e8, "bytes_per_cell": 4608, "again_seconds": 2.5}
        for cells in (100, 1000)
    ]
    engine = {"benchmark": "ray", "engine": "ray", "weights": "w", "images": 64, "images_per_second": 4.0}
    engine |= {"of_local": 0.95, "seconds_to_first": 12.0, "equal_values": 1.0}
    lines = [json.dumps(machine | one) for one in (ratio, *sizes, engine)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines) + "\n")
    run(monkeypatch, "benchmarks.speed.table", tmp_path / "r.jsonl", "--plot", tmp_path / "p.png")
    told = capsys.readouterr().out
    assert "| forward | w | ours | 4.8 | 1.73 | 1.60–1.80 | 83 % |" in told
    assert "| b | 1,000 | 2 | 500 | 700 | 4.61 | 2.5 |" in told
    assert "| ray | w | 64 | 4 | 0.95 | 12.0 | 100 % |" in told
    assert told.count("a chip, 2 cores") == 1
    assert Image.open(tmp_path / "p.png").width > 500


@pytest.mark.slow
def test_the_page_of_many_records_is_built_and_answers(tmp_path, monkeypatch, capsys):
    from browsing import chromium

    with chromium():  # told, or skipped, where there is none
        pass
    lines = tmp_path / "lines.jsonl"
    arguments = [
        "--rows",
        "3",
        "--seeds",
        "1",
        "--cells",
        "30",
        "--cells",
        "40",
        "--repeats",
        "1",
        "--json",
        str(lines),
    ]
    run(monkeypatch, "benchmarks.speed.leaderboard", *arguments)
    [record] = [json.loads(line) for line in lines.read_text().splitlines()]
    assert (record["benchmark"], record["records"]) == ("leaderboard", 3 * 2 * 2)
    assert set(record["answers_ms"]) == {"sort", "unfold", "search", "clear", "source", "matrix", "time", "table"}
    assert all(took > 0 for took in record["answers_ms"].values())
    assert "12 records" in capsys.readouterr().out


@pytest.mark.slow
def test_help_is_measured_with_and_without_plugins(tmp_path, monkeypatch, capsys):
    arguments = ("--plugins", 2, "--repeats", 1, "--json", tmp_path / "h.jsonl")
    run(monkeypatch, "benchmarks.speed.plugins_help", *arguments)
    found = {row["way"]: row for row in map(json.loads, (tmp_path / "h.jsonl").open())}
    assert set(found) == {
        "interpreter alone",
        *(f"{what}, {number} plugins more" for what in ("help", "list") for number in (0, 2)),
    }
    assert found["interpreter alone"]["seconds"] < found["help, 2 plugins more"]["seconds"]
    assert found["help, 0 plugins more"]["ratio"] == 1
    assert "With many plugins" in capsys.readouterr().out


def test_starts_are_measured_beside_the_interpreter_alone(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "benchmarks.speed.startup", "--repeats", 1, "--json", tmp_path / "s.jsonl")
    found = {row["way"]: row["seconds"] for row in map(json.loads, (tmp_path / "s.jsonl").open())}
    assert list(found) == [
        'python -c "pass"', 'python -c "import cellfeat"', "cellfeat --version", "cellfeat --help",
        "cellfeat run --align per-domain-z,cor, completed",
    ]  # fmt: skip
    assert found['python -c "pass"'] < found["cellfeat --version"]
    assert "cellfeat --help" in capsys.readouterr().out


@pytest.mark.slow
def test_scaling_runs_the_command_line_twice(tmp_path, monkeypatch, capsys):
    arguments = ("--cells", 12, "--backbone", "colour", "--json", tmp_path / "s.jsonl")
    run(monkeypatch, "benchmarks.speed.scaling", *arguments)
    [found] = [json.loads(line) for line in (tmp_path / "s.jsonl").open()]
    assert found["cells"] == 12
    assert found["bytes_per_cell"] > 4 * 1120
    assert found["peak_bytes"] > 1e8
    assert "again, s" in capsys.readouterr().out


# real images


@pytest.mark.real
def test_masks_of_real_cells(real_data, tmp_path, monkeypatch):
    arguments = ("--domain", "tecom", "--segmenter", "classical", "--limit", 6, "--json", tmp_path / "m.jsonl")
    run(monkeypatch, "masks", real_data / "manifest.csv", *arguments)
    (found,) = [json.loads(line) for line in (tmp_path / "m.jsonl").open()]
    assert found["cell"]["mean"] > 0.5
    assert found["nucleus"]["cells"] == 6


@pytest.mark.real
def test_real_cells_are_pasted_among_their_like(real_data):
    common, crops = module("common"), module("smear_crops")
    rows = common.read_rows(real_data / "manifest.csv", ["tecom"], limit=60)
    cells = [common.read_cell(row, None) for row in rows]
    found = [*crops.pasted_crops(cells, 4, np.random.default_rng(0))]
    assert np.mean([crop.touched for crop in found]) > 0.2
    for crop in found:
        around = crop.cell.image[~crops.grown(crop.cell.cell, 6)].astype(int)
        assert around.std() > 2, "an empty field"


def test_novelty_tells_laboratories_and_distortions_apart(tmp_path, monkeypatch, capsys, laboratories):
    """Of three drawn laboratories; batches are few, since there are few cells."""
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    program = module("novelty")
    monkeypatch.setattr(program, "BATCHES", {5: 2})
    monkeypatch.setattr(program, "SPOILT", 12)
    small = tmp_path / "small.csv"
    lines = laboratories.read_text().splitlines()
    kept = [line for line in lines[1:] if not line.startswith("lab-c")]
    paths = [line.replace("images/", f"{laboratories.parent}/images/", 1) for line in kept]
    small.write_text("\n".join([lines[0], *paths]))
    run(monkeypatch, "novelty", small, "--backbone", "colour", "--json", tmp_path / "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first["source"] == "lab-a"
    assert first["others"]["lab-b"]["auroc"] > 0.95
    assert first["batches"]["lab-a"] == {"5": [0, 2]}
    assert first["batches"]["lab-b"]["5"][0] == 2
    assert "yellower" in " ".join(first["spoilt"]["yellow light"]["remarks"])
    assert first["spoilt"]["none"]["remarks"] == []
    assert "colour, lab-a, yellow light: " in capsys.readouterr().out
