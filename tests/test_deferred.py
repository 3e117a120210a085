"""What knows its facts is built when an image must be encoded, and not when the cache has everything."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from cellfeat import CellfeatError, EncoderFacts, Features, hookimpl, recipe
from cellfeat.console import SilentReporter
from cellfeat.deferred import Deferred, deferred, facts_of
from cellfeat.demo import write_demo
from cellfeat.registry import Registry, installed
from cellfeat.use import extract
from cellfeat.workplace import Workplace

BUILT: list[str] = []


class Toy:
    """Every fourth pixel as a token map; `digest` is what it says of its weights."""

    image_size, interpolation, weights_saw = 16, "area", ("toys",)

    def __init__(self, digest: str = "a", side: int = 16) -> None:
        BUILT.append(digest)
        self.weights_sha256, self.image_size = digest, side

    @classmethod
    def facts(cls, digest, side, context):
        return EncoderFacts(side, "area", "a" if digest == "liar" else digest, ("toys",))

    def encode(self, images):
        return Features(images.float()[..., ::4, ::4], images.float().mean(1) < 150)

    def segment(self, images):
        return torch.ones((len(images), *images.shape[-2:]), dtype=torch.bool)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    BUILT.clear()


def registry() -> Registry:
    made = Registry(list(installed().offers))
    offer = hookimpl(lambda: {"toy": Toy})
    made.add("toys", "toys", "1.0", lambda: SimpleNamespace(cellfeat_backbone=offer, cellfeat_segmenter=offer))
    return made


def extracted(manifest, out, **sections) -> None:
    content = {"dataset": {"manifest": str(manifest)}, "backbone": {"name": "toy"}, **sections}
    extract(recipe.parse(content), out, Workplace(registry(), SilentReporter(), device="cpu"))


@pytest.mark.parametrize("segmenter", [None, {"name": "toy", "digest": "s"}])
def test_a_cache_that_has_everything_needs_no_network(tmp_path, segmenter):
    manifest = write_demo(tmp_path / "demo", per_class=1, size=32)
    extracted(manifest, tmp_path / "1.parquet", segmenter=segmenter)
    assert sorted(BUILT) == ["a", "s"][: 2 if segmenter else 1]
    BUILT.clear()
    extracted(manifest, tmp_path / "2.parquet", segmenter=segmenter)
    assert BUILT == []
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    extracted(manifest, tmp_path / "3.parquet", backbone={"name": "toy", "digest": "b"}, segmenter=segmenter)
    assert "b" in BUILT, "other weights are another encoding"


def test_facts_that_are_not_true_are_refused(tmp_path):
    manifest = write_demo(tmp_path / "demo", per_class=1, size=32)
    with pytest.raises(CellfeatError, match=r"backbone 'toy' of toys says .* weights_sha256 is 'a', and has 'liar'"):
        extracted(manifest, tmp_path / "1.parquet", backbone={"name": "toy", "digest": "liar"})


def test_a_factory_without_facts_builds_at_once(context):
    class Simple(Toy):
        facts = None

    del Simple.facts
    offer = registry().find("backbone", "toy")
    assert isinstance(deferred(offer, {}, context), Deferred)
    plain = SimpleNamespace(factory=lambda: "made", create=lambda params, context: "made")
    assert deferred(plain, {}, context) == "made"
    assert facts_of(Toy("x", 8)) == EncoderFacts(8, "area", "x", ("toys",))


@pytest.mark.slow
def test_lora_sam_is_not_imported_for_what_is_in_the_cache(tmp_path):
    manifest = write_demo(tmp_path / "demo", per_class=1, size=32)
    program = f"""
import json, sys
from pathlib import Path
from cellfeat import recipe, use, workplace
asked = recipe.parse({{"dataset": {{"manifest": {str(manifest)!r}}}}})
use.extract(asked, Path(sys.argv[1]), workplace.Workplace.on_terminal("cpu"))
networks = ("cellfeat_lora_sam.network", "segment_anything", "peft", "torchvision", "timm")
print(json.dumps([name for name in networks if name in sys.modules]))
"""
    found = []
    for name in ("1.parquet", "2.parquet"):
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert "cellfeat_lora_sam.network" in found[0]
    assert found[1] == []
