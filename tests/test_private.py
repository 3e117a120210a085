"""What is looked for in files before they are shared: words and paths wherever they may stand, and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skops.io
from safetensors.numpy import save_file

from cellfeat import private_words
from cellfeat.artifacts import save_state
from cellfeat.errors import CellfeatError
from cellfeat.private_arrays import Described
from cellfeat.sharing import Wishes, prepare

NAMES = np.array(["Smith-00017", "Müller-0002"])


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


HIDDEN = {  # file name: how a name comes into it
    "ids.npy": lambda path: np.save(path, NAMES),
    "ids.npz": lambda path: np.savez(path, numbers=np.zeros(3), ids=NAMES),
    "bytes.npy": lambda path: np.save(path, np.char.encode(NAMES, "utf-8")),
    "rows.npy": lambda path: np.save(path, np.array([(1, "Müller-0002")], dtype=[("n", int), ("id", "U20")])),
    "list.skops": lambda path: skops.io.dump({"ids": NAMES.tolist()}, path),
    "array.skops": lambda path: skops.io.dump({"ids": NAMES}, path),
    "header.safetensors": lambda path: save_file({"w": np.zeros(2)}, path, {"of": "Müller-0002"}),
    "name.safetensors": lambda path: save_file({"Müller-0002": np.zeros(2)}, path),
    "bytes.safetensors": lambda path: save_file({"w": np.frombuffer("ü Müller-0002 ".encode(), np.uint8)}, path),
    "value.json": lambda path: write_json(path, {"ids": ["Müller-0002"]}),
    "name.json": lambda path: write_json(path, {"counts": {"Müller-0002": 3}}),
    "notes.txt": lambda path: path.write_text("hardest: Müller-0002", encoding="utf-8"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_name_is_found_wherever_it_stands(name, tmp_path):
    HIDDEN[name](tmp_path / name)
    assert list(private_words.find(tmp_path, {"Müller-0002", "Schmidt-0003"})) == [(name, "Müller-0002")]
    assert list(private_words.find(tmp_path, {"Schmidt-0003", "üller-0002", "Müller-00"})) == []


@pytest.mark.parametrize("word", ["c01", "p-7", "Ü12a"])
def test_a_short_id_is_found_where_it_is_a_whole_text(word, tmp_path):
    np.save(tmp_path / "a.npy", np.array([word, "x"]))
    write_json(tmp_path / "b.json", {"hardest": [word]})
    write_json(tmp_path / "c.json", {word: 3, f"{word}0": f"{word} and more"})
    skops.io.dump({"ids": ["x", word]}, tmp_path / "d.skops")
    write_json(tmp_path / "e.json", {f"{word}0": f"{word} and more"})
    assert [name for name, _ in private_words.find(tmp_path, {word})] == ["a.npy", "b.json", "c.json", "d.skops"]


def test_what_is_in_any_file_by_chance_is_not_looked_for(tmp_path):
    write_json(tmp_path / "a.json", {"12": "lr", "123": ["none", "12", "7", "none"]})
    assert list(private_words.find(tmp_path, {"12", "123", "7", "lr", "none", "a1"})) == []


ROOTED = {
    "header.safetensors": lambda path: save_file({"w": np.zeros(2)}, path, {"from": "see /klinik/Müller/x.png"}),
    "name.json": lambda path: write_json(path, {"state": [{"/klinik/Müller/x.png": 1}]}),
    "windows.json": lambda path: write_json(path, {"C:\\klinik\\x.png": 1}),
    "places.npy": lambda path: np.save(path, np.array(["a", "/klinik/Müller/x.png"])),
    "list.skops": lambda path: skops.io.dump({"from": "/klinik/Müller/x.png"}, path),
    "notes.yaml": lambda path: path.write_text("from: /klinik/Müller/x.png", encoding="utf-8"),
}


@pytest.mark.parametrize("name", ROOTED)
def test_a_path_that_is_not_taken_out_stops_the_push(name, tmp_path):
    source = tmp_path / "method"
    source.mkdir()
    save_state(source, {"w": np.zeros(2)}, {"see": "/klinik/Müller/x.png", "page": "https://example.org/a"})
    (tmp_path / "out").mkdir()
    prepare(source, tmp_path / "out", Wishes())
    assert json.loads((tmp_path / "out" / "state.json").read_text()) == {"see": "x.png", "page": "a"}
    ROOTED[name](source / name)
    (tmp_path / "out-2").mkdir()
    with pytest.raises(CellfeatError, match=rf"{name} of .* would tell '\S*klinik\S*', a path or an id"):
        prepare(source, tmp_path / "out-2", Wishes())


PICTURES = {
    "bytes.npz": lambda path: np.savez(path, kept=np.zeros((4, 64, 64, 3), np.uint8)),
    "bytes.npy": lambda path: np.save(path, np.zeros((4, 9, 9), np.uint8)),
    "bytes.skops": lambda path: skops.io.dump({"kept": np.zeros((64, 64, 3), np.uint8)}, path),
    "masks.npy": lambda path: np.save(path, np.zeros((4, 32, 32), bool)),
    "wide.safetensors": lambda path: save_file({"kept": np.zeros((4, 64, 64), np.int16)}, path),
    "reals.safetensors": lambda path: save_file({"kept": np.zeros((4, 3, 48, 64), np.float32)}, path),
    "last.npz": lambda path: np.savez(path, kept=np.zeros((4, 64, 64, 3))),
    "grey.npy": lambda path: np.save(path, np.zeros((4, 1, 16, 16))),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_refused_in_every_container(name, tmp_path):
    (tmp_path / "method").mkdir()
    save_state(tmp_path / "method", {}, {})
    PICTURES[name](tmp_path / "method" / name)
    (tmp_path / "out").mkdir()
    with pytest.raises(CellfeatError, match=rf"{name} has a tensor \S+ of \[.*\], which look like pictures"):
        prepare(tmp_path / "method", tmp_path / "out", Wishes())


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("patch_embed.proj.weight", "real", (768, 3, 16, 16)),
        ("conv.kernel", "real", (64, 3, 7, 7)),
        ("pos_embed", "real", (1, 64, 64, 256)),
        ("pos", "real", (1, 256, 64, 64)),
        ("attn_mask", "real", (64, 49, 49)),
        ("vectors", "real", (900, 768)),
        ("places", "whole", (49, 49)),
        ("maps", "whole", (8, 12, 12)),
        ("labels", "byte", (64, 64)),
    ],
)
def test_weights_are_no_pictures(name, kind, shape):
    assert not Described(name, kind, shape).looks_like_pictures
