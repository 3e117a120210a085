"""`cellfeat run --dry-run`: what it says is what a run then does, and it leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import cellfeat, one_line  # noqa: F401  a fixture

from cellfeat import compose, machine
from cellfeat.console import SilentReporter
from cellfeat.pipeline import Pipeline
from cellfeat.plan import DIGEST_BYTES, Plan, Planner, Probe
from cellfeat.plan_text import lines
from cellfeat.recipe import FinetuneSection
from cellfeat.registry import installed
from cellfeat.run import run
from cellfeat.workplace import Workplace

CHEAP = {"backbone": "colour", "classifier": "majority"}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Workplace:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    return Workplace(installed(), SilentReporter(), "cpu")


def recipe_of(laboratories, protocol=None, **options):
    return compose.recipe(data=str(laboratories), protocol={"folds": 2, **(protocol or {})}, **{**CHEAP, **options})


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("align", "protocol", "count"),
    [
        ("per-domain-z", {}, 3),  # a label-free method that sees the target: once for each source
        ("per-domain-z", {"adapt": "heldout", "source": ["lab-a"]}, 2 * 2 + 1),  # folds, halves; and the pipeline
        ("none", {"source": ["lab-a"], "seeds": [1, 2]}, 2 * 2 + 1),  # folds, seeds; one pipeline, of the first seed
    ],
)
def test_the_fits_are_those_that_the_run_then_makes(work, laboratories, tmp_path, monkeypatch, align, protocol, count):
    recipe = recipe_of(laboratories, protocol, align=align)
    plan = Planner(work)(recipe)
    made = []
    fit = Pipeline.fit_align
    monkeypatch.setattr(Pipeline, "fit_align", lambda *given: (made.append(1), fit(*given))[1])
    folder, records = run(recipe, tmp_path / "run", work, pictures=False)
    assert plan.fits == len(made) == count
    assert plan.splits == len({(record["source"], record["seed"]) for record in records})
    assert plan.pipelines == len(list((folder / "pipelines").iterdir()))


def test_images_and_bytes_are_those_that_the_run_then_writes(work, laboratories, tmp_path):
    recipe = recipe_of(laboratories, {"source": ["lab-a"]}, align="none")
    plan = Planner(work)(recipe)
    assert (plan.images, plan.encoded, plan.missing) == (150, 0, 150)
    assert files(tmp_path) == ["cache", "cache/files.sqlite"], "the index of files, and nothing else"
    assert plan.probe is not None
    run(recipe, tmp_path / "run", work, pictures=False)
    [store] = [path.parent for path in tmp_path.rglob("store.json")]
    assert set(plan.probe.row_bytes) == {"pooled", "mask"}
    data = sum(path.stat().st_size for path in store.rglob("*.lance/data/*"))
    assert plan.store_bytes == pytest.approx(data, rel=0.1)
    before = files(tmp_path)
    after = Planner(work)(recipe)
    assert (after.encoded, after.missing, after.store_bytes, after.encoding_seconds) == (150, 0, 0, 0)
    assert after.probe is None
    assert files(tmp_path) == before
    some = Planner(work)(recipe_of(laboratories, align="none", sets=["backbone.bins=2"]))
    assert some.encoded == 0


def test_token_maps_count_with_all_their_bytes(work, laboratories):
    options = {"align": "cae", "backbone": "lora-sam", "classifier": None, "sets": ["dataset.domains=[lab-a, lab-b]"]}
    probe = Planner(replace(work, batch=2, half_maps=True))(recipe_of(laboratories, **options)).probe
    assert probe is not None
    assert probe.row_bytes["map"] == 192 * 14 * 14 * 2 + DIGEST_BYTES
    assert probe.row_bytes["mask"] == 224 * 224 // 8 + DIGEST_BYTES
    assert probe.row_bytes["crop"] == 3 * 128 * 128 + DIGEST_BYTES
    assert probe.images == 4, "the first of three batches warms up"
    assert probe.seconds > 0


def test_weights_that_are_not_here_are_named_with_their_size_and_not_fetched(work, laboratories):
    plan = Planner(work)(recipe_of(laboratories, backbone="lora-sam", sets=["backbone.weights=vit_b"]))
    assert [one.name for one in plan.to_fetch] == ["vit_b"]
    text = "\n".join(lines(plan))
    assert "to fetch first: vit_b, 375 MB" in text
    assert "how many are encoded already is not known: weights must be fetched first" in text
    assert plan.store_bytes is None
    assert plan.encoding_seconds is None


def test_a_backbone_that_is_fine_tuned_first(work, laboratories):
    recipe = recipe_of(laboratories, backbone="lora-sam").model_copy(update={"finetune": FinetuneSection(masks="otsu")})
    plan = Planner(work)(recipe)
    assert "the backbone is fine-tuned first" in lines(plan)[-1]


def test_the_plan_in_words(work, laboratories, monkeypatch):
    plan = Planner(work)(recipe_of(laboratories, align="coral,per-domain-z"))
    probe = Probe(32, 0.25, {"pooled": 4000, "map": 150_000}, 2e9)
    monkeypatch.setattr(machine, "free_disk", lambda folder: 5e9)
    monkeypatch.setattr(machine, "free_memory", lambda: 3e9)
    told = lines(Plan(**{**vars(plan), "images": 10_000, "encoded": 400, "probe": probe}))
    assert told[1] == "method: colour · coral · per-domain-z · majority"
    assert "images: 400 of 10,000 are encoded already, 9,600 would be" in told
    assert "encoding: about 40 min (measured now on 32 images, 250 ms each)" in told
    assert "cache: 1.5 GB more (per image: pooled 4.0 kB, map 150 kB), 5.0 GB free" in told
    assert "memory: 2.0 GB while encoding (measured), 3.0 GB free; of the fits not known" in told


@pytest.mark.parametrize("domains", ["[lab-b]", "[lab-a, lab-b]"])
def test_it_takes_whatever_the_run_takes(work, laboratories, tmp_path, domains):
    recipe = recipe_of(laboratories, align="none", sets=[f"dataset.domains={domains}"])
    plan, said = Planner(work)(recipe), [note for note in work.reporter.notes if "alone" in note]
    assert said == [note for note in said if domains == "[lab-b]"], "one laboratory is told of"
    assert len(said) == (domains == "[lab-b]")
    folder, _ = run(recipe, tmp_path / "run", work, pictures=False)
    assert plan.pipelines == len(list((folder / "pipelines").iterdir()))


def test_the_command_says_it_and_runs_nothing(cellfeat, laboratories, tmp_path):  # noqa: F811
    arguments = ["run", "--data", laboratories, "--backbone", "colour", "--folds", "2", "--dry-run"]
    code, out, err = cellfeat(*arguments)
    assert code == 0, err
    assert "fits: 9 of the methods in 3 splits" in out
    assert f"data: {laboratories}, 150 cells" in out
    assert "│ monocyte" in out
    assert "Nothing was run" in err
    assert files(tmp_path) == ["cache", "cache/files.sqlite"]
    Path("there").mkdir()
    code, _, err = cellfeat(*arguments, "--out", "there")
    assert (code, "never overwritten" in one_line(err)) == (2, True)
    code, _, err = cellfeat(*arguments, "--folds", "11")
    assert (code, "use fewer folds" in one_line(err)) == (2, True)
