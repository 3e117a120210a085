"""The Ray engine: the local engine's store, whatever dies on the way; few lines for whoever looks on."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cellfeat import CellfeatError, ray_engine, recipe, use
from cellfeat.batch_size import ON_CPU, ON_GPU
from cellfeat.console import SilentReporter
from cellfeat.demo import write_demo
from cellfeat.encoding import BatchEncoder, Computed
from cellfeat.extract import Encoder
from cellfeat.known_files import RACY
from cellfeat.ray_cluster import _check_answers
from cellfeat.ray_workers import TRIES, Encoding, Reader
from cellfeat.registry import installed
from cellfeat.store import Store
from cellfeat.workplace import Workplace

pytest.importorskip("ray.data", reason='Ray Data is absent: pip install "cellfeat[ray]"')
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CELLS = 45


@pytest.fixture(scope="module", autouse=True)
def not_nice():
    """Ray's workers give way to every other process, unless told otherwise: other tests would starve them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield


@pytest.fixture(scope="module")
def running_ray(not_nice):
    """One Ray for all tests, as for a user of the library who has started it; workers run in one thread."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    manifest = write_demo(tmp_path_factory.mktemp("drawn") / "demo", per_class=CELLS // 15, size=32)
    time.sleep(RACY)  # what was changed a moment ago is looked at again; on a slow machine that would be some of it
    return manifest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CELLFEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def extract(manifest: Path | str, out: Path, engine: str = "ray", reporter=None, skip_bad=False, **choice):
    """A cache of its own named after `out`; gives the reporter."""
    backbone = choice.pop("backbone", {"name": "colour", "bins": 2})
    content = {"dataset": {"manifest": str(manifest)}, "backbone": backbone}
    work = Workplace(installed(), reporter or SilentReporter(), device="cpu", skip_bad=skip_bad)
    one = {} if engine == "local" else {"encoders": 1}  # starting an encoder takes longer than these few images
    use.extract(recipe.parse(content), out, work, engine, **one | choice)
    return work.reporter


def stored(cache: Path) -> dict[str, dict[str, bytes]]:
    """{column: {digest: bytes of the value}} of the only store in a cache; a digest that is there twice is an error."""
    [store] = (cache / "stores").iterdir()
    found = {}
    for path in store.glob("*.lance"):
        table = lance.dataset(str(path)).to_table()
        digests = table.column("digest").to_pylist()
        values = table.column("value").combine_chunks().flatten().to_numpy().reshape(len(digests), -1)
        assert len(set(digests)) == len(digests), f"rows of {path.stem} are there twice"
        found[path.stem] = {digest: value.tobytes() for digest, value in zip(digests, values, strict=True)}
    return found


@pytest.fixture(scope="module")
def local(drawn, tmp_path_factory) -> tuple[dict, Path]:
    """The local engine's store and output."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(folder / "cache"))
        extract(drawn, folder / "f.parquet", "local")
    return stored(folder / "cache"), folder / "f.parquet"


def same_rows(one: dict, other: dict) -> None:
    """The same columns, digests and bits; without a listing of what differs, which would be megabytes."""
    assert {name: set(rows) for name, rows in one.items()} == {name: set(rows) for name, rows in other.items()}
    differing = {
        name: sum(other[name][digest] != value for digest, value in rows.items()) for name, rows in one.items()
    }
    assert not any(differing.values()), differing


def same_output(one: Path, other: Path) -> None:
    assert pq.read_table(one).to_pandas().equals(pq.read_table(other).to_pandas())
    assert pq.read_schema(one).metadata[b"cellfeat"] == pq.read_schema(other).metadata[b"cellfeat"]


class Bar:
    def __init__(self, then) -> None:
        self.then, self.done = then, 0

    def advance(self, n: int = 1) -> None:
        self.done += n
        self.then(self.done)


class Watching(SilentReporter):
    """Calls `then(images done)` at each step of the encoding."""

    def __init__(self, then) -> None:
        super().__init__()
        self.then, self.bars = then, []

    @contextmanager
    def progress(self, total, text):
        self.bars.append((total, text, Bar(self.then)))
        yield self.bars[-1][2]


def test_store_and_output_are_those_of_the_local_engine(running_ray, drawn, local, own_cache, tmp_path):
    reporter = Watching(lambda done: None)
    before = running_ray.data.DataContext.get_current().enable_progress_bars
    extract(drawn, tmp_path / "f.parquet", reporter=reporter, encoders=None)  # as many as there are CPUs
    same_rows(stored(own_cache), local[0])
    same_output(tmp_path / "f.parquet", local[1])
    [(total, text, bar)] = reporter.bars
    assert (total, text, bar.done) == (CELLS, "encoding images", CELLS)
    assert running_ray.is_initialized(), "a Ray that was there before must be left running"
    assert running_ray.data.DataContext.get_current().enable_progress_bars is before
    extract(drawn, tmp_path / "again.parquet", reporter=(again := Watching(lambda done: None)))
    same_output(tmp_path / "again.parquet", local[1])
    assert sum(bar.done for *_, bar in again.bars) == 0
    same_rows(stored(own_cache), local[0])


def test_a_network_gives_the_same_bits(running_ray, drawn, own_cache, tmp_path):
    """At equal batch shape and threads; with the quality of its masks."""
    choice = {"backbone": {"name": "lora-sam", "weights": "cell-tiny"}}
    extract(drawn, tmp_path / "ray.parquet", **choice)
    by_ray = stored(own_cache)
    shutil.rmtree(own_cache)
    extract(drawn, tmp_path / "local.parquet", "local", **choice)
    same_rows(by_ray, stored(own_cache))
    assert set(by_ray) == {"mask", "pooled", "quality"}
    same_output(tmp_path / "ray.parquet", tmp_path / "local.parquet")


def test_ray_goes_on_where_the_local_engine_stopped(running_ray, drawn, local, own_cache, tmp_path):
    rows = drawn.read_text().splitlines()
    half = drawn.with_name("half.csv")
    half.write_text("\n".join(rows[: 1 + CELLS // 2]) + "\n")
    extract(half, tmp_path / "half.parquet", "local")
    [store] = (own_cache / "stores").iterdir()
    early = lance.dataset(str(store / "pooled.lance")).count_rows()
    assert early == CELLS // 2
    extract(drawn, tmp_path / "f.parquet")
    same_rows(stored(own_cache), local[0])
    assert lance.dataset(str(store / "pooled.lance")).count_rows() == CELLS
    same_output(tmp_path / "f.parquet", local[1])


def encoder_processes() -> list[int]:
    """The encoder actors of this test's Ray, by what Ray calls their processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            parent = int(re.search(r"PPid:\s*(\d+)", (folder / "status").read_text())[1])
            grandparent = int(re.search(r"PPid:\s*(\d+)", Path(f"/proc/{parent}/status").read_text())[1])
        except (OSError, TypeError):
            continue
        if b"ray::MapWorker" in title and grandparent == os.getpid():
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the process in /proc")
def test_a_killed_worker_changes_nothing(running_ray, drawn, local, own_cache, tmp_path):
    killed = []

    def kill(done: int) -> None:
        if not killed:
            killed.extend(encoder_processes())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    extract(drawn, tmp_path / "f.parquet", reporter=Watching(kill))
    assert len(killed) == 1
    same_rows(stored(own_cache), local[0])
    same_output(tmp_path / "f.parquet", local[1])


def test_an_interruption_keeps_what_was_done_and_the_next_run_goes_on(running_ray, drawn, local, own_cache, tmp_path):
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(drawn, tmp_path / "f.parquet", reporter=Watching(interrupt))
    kept = stored(own_cache)["pooled"]
    assert 0 < len(kept) < CELLS
    assert all(local[0]["pooled"][digest] == value for digest, value in kept.items())
    extract(drawn, tmp_path / "f.parquet", "local")
    same_rows(stored(own_cache), local[0])
    same_output(tmp_path / "f.parquet", local[1])


def damaged(drawn: Path, folder: Path) -> Path:
    """A copy whose fifth image is cut short, and two of whose images are the same file twice."""
    shutil.copytree(drawn.parent, folder)
    pictures = sorted((folder / "images").iterdir())
    pictures[4].write_bytes(pictures[4].read_bytes()[:200])
    shutil.copy(pictures[7], pictures[40])
    shutil.copy(folder / "masks" / pictures[7].name, folder / "masks" / pictures[40].name)
    return folder / "manifest.csv"


def test_a_damaged_image_is_the_same_line_or_left_out(running_ray, drawn, own_cache, tmp_path, monkeypatch):
    manifest = damaged(drawn, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    told = {}
    for engine in ("local", "ray"):
        with pytest.raises(CellfeatError) as refused:
            extract("copy/manifest.csv", tmp_path / "f.parquet", engine)
        told[engine] = str(refused.value)
    assert told["ray"] == told["local"]
    assert told["ray"].startswith("copy/images/")
    results = {}
    for engine in ("local", "ray"):
        shutil.rmtree(own_cache)
        extract(manifest, tmp_path / f"{engine}.parquet", engine, skip_bad=True)
        results[engine] = stored(own_cache)
    same_rows(results["ray"], results["local"])
    assert len(results["ray"]["pooled"]) == CELLS - 2
    same_output(tmp_path / "ray.parquet", tmp_path / "local.parquet")
    assert (tmp_path / "ray-skipped.csv").read_text() == (tmp_path / "local-skipped.csv").read_text()


def test_a_workers_refusal_is_one_line(running_ray, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_described", lambda encoder, device: _other(encoder))
    with pytest.raises(
        CellfeatError, match=r"^a Ray worker on \S+ would encode with cellfeat='.*', this run needs '9'"
    ):
        extract(drawn, tmp_path / "f.parquet")


def _other(encoder):
    return replace(encoder, way={**encoder.way, "cellfeat": "9"})


@pytest.fixture
def server(drawn):
    """The drawn cells on a web server of this machine; gives its address and the list of what was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(drawn.parent))

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", asked
        serving.shutdown()
        thread.join()


def test_images_of_a_web_server(running_ray, local, own_cache, tmp_path, server):
    address, asked = server
    extract(f"{address}/manifest.csv", tmp_path / "f.parquet")
    same_rows(stored(own_cache), local[0])
    pictures = [path for path in asked if path.startswith("/images/")]
    assert len(pictures) == len(set(pictures)) == CELLS, "every image is fetched once, by a worker"
    same_output(tmp_path / "f.parquet", local[1])
    [store] = (own_cache / "stores").iterdir()
    files = len(list((store / "pooled.lance" / "data").iterdir()))
    extract(f"{address}/manifest.csv", tmp_path / "again.parquet")  # read again, as it may have changed; encoded never
    assert len(list((store / "pooled.lance" / "data").iterdir())) == files
    same_rows(stored(own_cache), local[0])


@pytest.mark.parametrize(
    ("asked", "gpus", "device"),
    [("auto", 0, "auto"), ("auto", 2, "cuda"), ("cuda:1", 2, "cuda"), ("cpu", 2, "cpu"), ("mps", 0, "mps")],
)
def test_encoders_run_where_the_cluster_can(asked, gpus, device):
    assert ray_engine._device(asked, gpus) == device


def test_a_gpu_that_no_node_has_is_not_waited_for():
    with pytest.raises(CellfeatError, match="--device cuda: Ray has no GPU here; leave --device out to encode on CPUs"):
        ray_engine._device("cuda", 0)


def test_a_driver_without_gpu_names_the_store_of_encoders_with_one(tmp_path, context):
    encoder = Encoder(SimpleNamespace(image_size=224), None, {"device": "cpu"}, tmp_path, context)
    described = ray_engine._described(encoder, "cuda")
    assert (described.description["device"], described.description["batch"]) == ("cuda", ON_GPU)
    assert ray_engine._described(encoder, "auto").description == {"device": "cpu", "batch": ON_CPU}


def test_a_group_that_kills_every_process_is_given_up(tmp_path):
    job = SimpleNamespace(root=str(tmp_path), description={"a": 1})
    marks = Store(tmp_path, {"a": 1}).folder / "tries"
    trying = [Encoding(job)._trying(["x", "y"]) for _ in range(TRIES)]
    for one in trying:
        one.__enter__()  # and never left, as in a process that is gone
    with Encoding(job)._trying(["z"]):
        pass
    assert len(list(marks.iterdir())) == TRIES
    with (
        pytest.raises(CellfeatError, match="encoding 2 images has ended its process 8 times"),
        Encoding(job)._trying(["x", "y"]),
    ):
        pytest.fail("it was tried again")
    assert list(marks.iterdir()) == [], "the next command begins anew"


def test_memory_that_runs_out_in_a_worker_halves_the_batch(drawn, tmp_path, monkeypatch, own_cache):
    """Without Ray: a stream whose workers cannot compute more than four images at once."""

    class Stream:
        def __init__(self, job, cluster, encoders) -> None:
            self.job = job

        def results(self, items, present):
            monkeypatch.setattr(BatchEncoder, "compute", lambda _, *given: self.compute(*given))
            reader, encoding = Reader(*self.job.way["frame"], None), Encoding(self.job)
            table = pa.table({"group": [json.dumps(items)]})
            yield json.loads(encoding(reader(table)).column("result")[0].as_py())

        def compute(self, batch, columns):
            encoder = BatchEncoder(None, None, None, self.job.description["batch"])
            if encoder.size > 4:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            pooled = torch.from_numpy(batch.mean((2, 3), dtype=np.float32))
            return Computed(batch, len(batch), ("pooled",), {"pooled": pooled}, None)

    @contextmanager
    def nowhere(self):
        yield SimpleNamespace(gpus=lambda: 0)

    monkeypatch.setattr(ray_engine, "_Stream", Stream)
    monkeypatch.setattr(ray_engine.Cluster, "joined", nowhere)
    reporter = extract(drawn, tmp_path / "f.parquet")
    assert [note.partition(",")[0] for note in reporter.notes if "memory" in note] == [
        f"memory ran out encoding {size} images at once; from now on {size // 2} at once" for size in (16, 8)
    ]
    assert pq.read_table(tmp_path / "f.parquet").num_rows == CELLS


def test_mistakes_are_told_before_any_work(drawn, tmp_path):
    def told(**choice) -> str:
        with pytest.raises(CellfeatError) as refused:
            extract(drawn, tmp_path / "f.parquet", **choice)
        return str(refused.value)

    assert told(engine="rya") == "no engine named 'rya'. Did you mean 'ray'? Available: local, ray"
    assert told(engine="local", encoders=2) == "--address and --encoders belong to --engine ray"
    assert told(encoders=0) == "--encoders 0: at least one process must encode"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (
            "127.0.0.1:9",
            "--address 127.0.0.1:9: nobody answers (Connection refused); start one with `ray start --head`",
        ),
        ("gibberish", "--address gibberish: not an address; possible are auto and HOST:PORT"),
        (
            "ray://head:10001",
            "--address ray://head:10001: Ray Data is not driven from afar; start the command on a node",
        ),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(address, reason):
    with pytest.raises(CellfeatError, match=re.escape(reason)):
        _check_answers(address)


def test_without_ray_one_line_says_what_to_install(drawn, tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('no ray here')")
    code = (
        "import sys; sys.argv = ['cellfeat', 'extract', *sys.argv[1:], '--engine', 'ray', '--backbone', 'colour']\n"
        "from cellfeat.cli import main; main()"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, str(drawn), "-o", str(tmp_path / "f.parquet")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith(
        'error: --engine ray needs ray, which cannot be imported (no ray here): pip install "cellfeat[ray]" '
        "(--engine local needs nothing)"
    )
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_an_interrupted_command_says_how_to_go_on_and_leaves_no_process(drawn, tmp_path):
    def of_ray() -> set[int]:
        return {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if mark in read(path)}

    def read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""

    mark = f"CELLFEAT_CACHE={tmp_path / 'cache'}".encode()
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cellfeat import ray_engine\nfrom cellfeat.cli import main\ntake = ray_engine._Filling._take\n"
        "def interrupted(*given):\n    take(*given)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "ray_engine._Filling._take = interrupted\nmain()"
    )
    given = ["extract", str(drawn), "-o", str(tmp_path / "f.parquet"), "--engine", "ray", "--encoders", "1"]
    given += ["--backbone", "colour", "--set", "backbone.bins=2", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    stopping, told, command = (line for line in done.stderr.splitlines() if line)
    assert stopping.startswith("Stopping;")
    assert told.startswith("Interrupted. Kept: every image that was encoded.")
    assert command == f"  {shlex.join(['cellfeat', *given])}"
    assert 0 < len(stored(tmp_path / "cache")["pooled"]) < CELLS
    deadline = time.monotonic() + 20
    while of_ray() - {os.getpid()} and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not of_ray() - {os.getpid()}


def test_the_command_starts_and_ends_ray_and_says_little(drawn, local, tmp_path, own_cache):
    """A process of its own, as a user starts it: nothing of Ray's is on the terminal, and nothing of it stays."""
    code = "from cellfeat.cli import main; main()"
    given = ["extract", str(drawn), "-o", str(tmp_path / "f.parquet"), "--engine", "ray"]
    given += ["--encoders", "1", "--backbone", "colour", "--set", "backbone.bins=2", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert re.fullmatch(rf"\S+f\.parquet: {CELLS} cells × \d+ features\n", done.stderr), done.stderr
    same_rows(stored(own_cache), local[0])
    same_output(tmp_path / "f.parquet", local[1])


# What the store does with fragments, without Ray.


def test_fragments_are_seen_once_they_are_adopted_and_never_twice(tmp_path):
    store, other = Store(tmp_path, {"way": "toy"}), Store(tmp_path, {"way": "toy"})
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    first = store.write_fragment("pooled", list("abc"), values[:3])
    twice = store.write_fragment("pooled", list("abc"), values[:3])
    partly = store.write_fragment("pooled", list("cde"), values[2:5])
    assert store.missing(["pooled"], list("abc")) == list("abc")
    store.append(list("f"), {"pooled": values[5:]})
    store.adopt("pooled", [(list("abc"), first), (list("abc"), twice)])
    store.adopt("pooled", [(list("cde"), partly), (list("abc"), twice)])
    for seen in (store, other, Store(tmp_path, {"way": "toy"})):
        assert lance.dataset(str(seen.folder / "pooled.lance")).count_rows() == 6
        np.testing.assert_array_equal(seen.column("pooled", list("abcdef")).read(np.arange(6)), values)


def test_fragments_of_another_shape_are_refused(tmp_path):
    store = Store(tmp_path, {"way": "toy"})
    early = store.write_fragment("mask", ["a"], np.ones((1, 2, 2), bool))
    store.append(["b"], {"mask": np.ones((1, 3, 3), bool)})
    with pytest.raises(CellfeatError, match=r"holds mask as bool \[3, 3\], but was given bool \[2, 2\]"):
        store.adopt("mask", [(["a"], early)])
    with pytest.raises(CellfeatError, match=r"but was given float32 \[2\]"):
        store.write_fragment("mask", ["a"], np.ones((1, 2), np.float32))
