"""Named weights: found, downloaded from a real server on loopback, resumed, checked, refused."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
import xxhash
from file_server import serving
from safetensors.torch import save_file

from cellfeat import CellfeatError, NamedWeights, find_weights
from cellfeat.digests import file_sha256
from cellfeat.store import cache_folder
from cellfeat.weights import check_tensors, load_tensors, verify_weights, weights_cache, weights_status

CONTENT = bytes(range(256)) * 5000  # 1.28 MB


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CELLFEAT_OFFLINE", raising=False)
    return tmp_path / "cache" / "weights"


def named(*urls: str, digest: str = "", **facts: object) -> dict[str, NamedWeights]:
    return {"big": NamedWeights("big", digest or sha256(CONTENT), urls=urls, **facts)}


def part_of(own_cache: Path, digest: str = "") -> Path:
    own_cache.mkdir(parents=True, exist_ok=True)
    return own_cache / f"big-{(digest or sha256(CONTENT)).partition(':')[2][:8]}.pth.part"


def test_a_download_is_verified_kept_and_not_repeated(server, own_cache):
    path = find_weights("big", named(server.url()))
    assert path.read_bytes() == CONTENT
    assert path.parent == own_cache == weights_cache()
    assert find_weights("big", named(server.url())) == path
    assert server.ranges == [None]
    assert [file.name for file in own_cache.iterdir() if ".part" in file.name or "wrong" in file.name] == []


def test_xxh128_digests_are_understood(server):
    digest = f"xxh128:{xxhash.xxh128(CONTENT).hexdigest()}"
    assert find_weights("big", named(server.url(), digest=digest)).read_bytes() == CONTENT
    with pytest.raises(CellfeatError, match="xxh128"):
        find_weights("big", named(server.url(), digest="xxh128:" + 32 * "0"))


def test_a_broken_connection_is_picked_up_where_it_ended(server):
    server.break_after = [400_000, 300_000]
    assert find_weights("big", named(server.url())).read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert server.ranges[0] is None
    assert 300_000 < starts[0] <= 400_000 < starts[1] <= 700_000


def test_a_download_that_was_killed_is_resumed_by_the_next_run(server, own_cache):
    part_of(own_cache).write_bytes(CONTENT[:1000])
    assert find_weights("big", named(server.url())).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_whole_part_needs_nothing_more(server, own_cache):
    part_of(own_cache).write_bytes(CONTENT)
    assert find_weights("big", named(server.url())).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, own_cache):
    server.knows_ranges = False
    part_of(own_cache).write_bytes(CONTENT[:1000])
    assert find_weights("big", named(server.url())).read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(server, own_cache):
    part_of(own_cache).write_bytes(b"another file")
    assert find_weights("big", named(server.url())).read_bytes() == CONTENT
    assert server.ranges == ["bytes=12-", None]


def test_a_wrong_file_is_refused_with_both_digests_and_put_aside(server, own_cache):
    server.content = b"not the weights"
    got, wanted = hashlib.sha256(server.content).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(CellfeatError, match=f"(?s)'big' could not be downloaded.*{got}.*{wanted}.*kept as .*wrong"):
        find_weights("big", named(server.url()))
    assert [file.read_bytes() for file in own_cache.glob("*.wrong")] == [server.content]
    assert not list(own_cache.glob("*.pth"))


def test_mirrors_are_tried_in_order(server):
    assert find_weights("big", named(server.url("missing.pth"), server.url())).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_no_mirror_that_works_is_one_clear_line(server, own_cache):
    with pytest.raises(CellfeatError, match=r"'big' could not be downloaded.*404.*can be put at") as caught:
        find_weights("big", named(server.url("missing.pth")))
    assert "\n" not in str(caught.value)


def test_no_connection_is_said_shortly():
    address = "http://127.0.0.1:1/weights.pth"
    with pytest.raises(
        CellfeatError, match=rf"downloaded\. {address}: no connection \(\[Errno \d+\] [\w ]+\)\. A file"
    ):
        find_weights("big", named(address))


def test_a_damaged_cached_file_is_fetched_again_or_refused_offline(server):
    path = find_weights("big", named(server.url()))
    path.write_bytes(b"damaged")
    with pytest.raises(CellfeatError, match=r"has the sha256 .* not .*delete it, then: cellfeat weights fetch big"):
        find_weights("big", named(server.url()), offline=True)
    assert find_weights("big", named(server.url())).read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_without_the_file_says_how_to_get_it(server, monkeypatch, how):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1" if how == "environment" else "0")
    with pytest.raises(CellfeatError, match=r"downloads are switched off.*cellfeat weights fetch big"):
        find_weights("big", named(server.url()), offline=True if how == "argument" else None)
    assert server.ranges == []


def test_offline_with_the_file_works(server, monkeypatch):
    path = find_weights("big", named(server.url()))
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    assert find_weights("big", named("http://127.0.0.1:1/weights.pth")) == path


def test_progress_counts_bytes(server):
    seen = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def advance(self, n=1):
            seen.append(n)

    def progress(total, text):
        assert (total, text) == (len(CONTENT), "fetching big")
        return Bar()

    find_weights("big", named(server.url()), progress=progress)
    assert sum(seen) == len(CONTENT)


def test_shipped_weights_are_verified(tmp_path):
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(CONTENT)
    shipped = {"tiny": NamedWeights("tiny", sha256(CONTENT), path=path)}
    assert find_weights("tiny", shipped, offline=True) == path
    path.write_bytes(b"other")
    with pytest.raises(CellfeatError, match="reinstall"):
        find_weights("tiny", shipped)
    path.unlink()
    with pytest.raises(CellfeatError, match=r"'tiny' ship as .* absent: reinstall"):
        find_weights("tiny", shipped)


def test_paths_and_mistakes(tmp_path):
    path = tmp_path / "own.pth"
    path.write_bytes(b"x")
    assert find_weights(path, named()) == path
    for wrong, message in (
        (tmp_path, "is a folder; weights are one file"),
        (tmp_path / "absent.pth", r"no weights file at .*absent\.pth. Known by name: big"),
        ("bigg", r"no weights named 'bigg'. Did you mean 'big'\?.*path of a file works too"),
    ):
        with pytest.raises(CellfeatError, match=message):
            find_weights(wrong, named())


def test_status_and_verification(server):
    row = weights_status(named(server.url(), size_mb=1.3, licence="MIT"))[0]
    assert (row.name, row.size_mb, row.licence, row.path) == ("big", 1.3, "MIT", None)
    assert "cellfeat weights fetch big" in row.where
    with pytest.raises(CellfeatError, match="fetch big"):
        verify_weights("big", named(server.url()))
    with pytest.raises(CellfeatError, match="no weights named"):
        verify_weights("absent", named(server.url()))
    path = find_weights("big", named(server.url()))
    row = weights_status(named(server.url()))[0]
    assert (row.path, row.where) == (path, str(path))
    assert verify_weights("big", named(server.url())) == path
    assert server.ranges == [None]


def test_tensors_of_every_layout(tmp_path):
    tensors = {"a": torch.arange(3.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pth")
    torch.save({"model_state": tensors, "epoch": 3}, tmp_path / "wrapped.pt")
    torch.save({"module.a": tensors["a"]}, tmp_path / "parallel.pth")
    other = {"a": torch.zeros(3)}
    torch.save({"student": other, "teacher": tensors, "args": argparse.Namespace(lr=0.1)}, tmp_path / "distilled.pth")
    torch.save({"state_dict": other, "state_dict_ema": tensors}, tmp_path / "averaged.pth")
    torch.save({"model": {"module.a": tensors["a"]}}, tmp_path / "both.pth")
    for name in ("a.safetensors", "a.pth", "wrapped.pt", "parallel.pth", "distilled.pth", "averaged.pth", "both.pth"):
        loaded = load_tensors(tmp_path / name)
        assert list(loaded) == ["a"]
        assert torch.equal(loaded["a"], tensors["a"])


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-run",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(CellfeatError, match=r"was not loaded: .*run code") as caught:
            load_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil-was-run").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("a.safetensors", b"junk"), ("a.pth", b""), ("b.pth", b"PK\x03\x04 junk")]
)
def test_unreadable_files_are_one_clear_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CellfeatError, match=name) as caught:
        load_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CellfeatError, match="holds no weights"):
        load_tensors(tmp_path / "empty.pth")


def test_tensors_are_checked_by_name_and_shape():
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(4), "c": torch.ones(1)}
    check_tensors(Path("x.pth"), tensors, {"a": (2, 3), "b": torch.Size([4]), "c": [1]})
    with pytest.raises(CellfeatError) as caught:
        check_tensors(Path("x.pth"), tensors, {"a": (3, 2), "b": (4,), "d": (1,)})
    assert str(caught.value) == ("x.pth does not fit: d is absent; c is unknown; a has the shape (2, 3) and not (3, 2)")
    with pytest.raises(CellfeatError, match=r"d is absent; b is unknown; c is unknown \(and 1 more\)$"):
        check_tensors(Path("x.pth"), tensors, {"a": (3, 2), "d": (1,)})


def test_downloads_are_kept_in_the_cache_folder(own_cache, monkeypatch):
    monkeypatch.setenv("HOME", str(own_cache))
    monkeypatch.setenv("CELLFEAT_CACHE", "~/cells")
    assert weights_cache() == cache_folder() / "weights" == own_cache / "cells" / "weights"
    assert weights_cache(Path("~/mine")) == own_cache / "mine" / "weights"
    monkeypatch.setenv("CELLFEAT_CACHE", "")
    assert weights_cache() == cache_folder() / "weights"


def test_file_sha256(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert f"sha256:{file_sha256(tmp_path / 'a')}" == sha256(CONTENT)


def test_a_checkpoint_with_other_keys_than_names_holds_no_weights(tmp_path):
    import torch

    torch.save({0: torch.zeros(2)}, tmp_path / "numbered.pth")
    with pytest.raises(CellfeatError, match="holds no weights: a dictionary of tensors by name is expected"):
        load_tensors(tmp_path / "numbered.pth")


class Hub:
    """What the client of the Hugging Face hub does, with a cache folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, bool]] = []
        self.blob = folder / hashlib.sha256(CONTENT).hexdigest()
        self.here = False
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.download)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(self.blob) if self.here else None)

    def download(self, repository: str, name: str, local_files_only: bool = False) -> str:
        self.asked.append((repository, name, local_files_only))
        if not self.here and local_files_only:
            raise FileNotFoundError
        if not self.here:
            self.here = self.blob.write_bytes(CONTENT) > 0
        return str(self.blob)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return Hub(tmp_path, monkeypatch)


def test_a_file_of_the_hub_is_compared_with_the_digest_that_the_hub_tells(hub):
    weights = {"far": NamedWeights("far", hub="owner/name/part/model.bin", size_mb=1.28)}
    row = weights_status(weights)[0]
    assert (row.path, row.digest, row.where) == (None, "", "no (cellfeat weights fetch far)")
    assert find_weights("far", weights) == hub.blob
    assert hub.asked == [("owner/name/part", "model.bin", True), ("owner/name/part", "model.bin", False)]
    row = weights_status(weights)[0]
    assert (row.path, row.digest) == (hub.blob, sha256(CONTENT))
    assert verify_weights("far", weights) == hub.blob
    hub.blob.write_bytes(b"damaged")
    for ask in (verify_weights, find_weights):
        with pytest.raises(CellfeatError, match=r"'far' are not to be had: .* is damaged: its SHA-256 is not its name"):
            ask("far", weights)


def test_a_file_of_the_hub_offline_says_how_to_get_it(hub, monkeypatch):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    with pytest.raises(CellfeatError) as caught:
        find_weights("far", {"far": NamedWeights("far", hub="owner/name/model.bin")})
    assert str(caught.value) == (
        "the weights 'far' are not to be had: owner/name is not in the hub's cache and downloads are switched off. "
        "Fetch them where there is a network: cellfeat weights fetch far"
    )
    assert hub.asked == [("owner/name", "model.bin", True)]


@pytest.mark.parametrize("facts", [{}, {"digest": "sha256:00", "hub": "owner/name/file"}])
def test_weights_have_a_digest_or_lie_on_the_hub(facts):
    with pytest.raises(CellfeatError, match="the weights 'both' need a digest, or a file of the hub; one of them"):
        NamedWeights("both", **facts)
