"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import pandas as pd

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: each would take all cores for its own threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real blood-cell images: CELLFEAT_TEST_DATA, default ../shared/data beside the repository."""
    folder = Path(os.environ.get("CELLFEAT_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "manifest.csv").is_file():
        pytest.skip(
            f"no real images: {folder}/manifest.csv is absent; set CELLFEAT_TEST_DATA to the folder that has it"
        )
    return folder


@pytest.fixture
def context(tmp_path: Path):
    """A CPU context that shows nothing and keeps its notes in `context.reporter.notes`."""
    import torch

    from cellfeat.console import SilentReporter
    from cellfeat.slots import Context

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Context(
        device=torch.device("cpu"),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(1234),
        scratch=scratch,
        reporter=SilentReporter(),
    )


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, for `browsing.opened`."""
    from browsing import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other make small networks slow on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def warm():
    """Fresh processes of the conformance kit have their libraries loaded already."""
    from warm_interpreter import warm_interpreter

    with warm_interpreter():
        yield


@pytest.fixture(scope="session")
def laboratories(tmp_path_factory) -> Path:
    """Manifest of three drawn laboratories, five classes of ten cells each, 32 px, without masks."""
    from cellfeat.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("laboratories") / "demo", per_class=10, size=32)


@pytest.fixture(scope="session")
def small_laboratories(tmp_path_factory) -> Path:
    """As `laboratories`, with four cells of each class; to be read only."""
    from cellfeat.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("small-laboratories") / "demo", per_class=4, size=32)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory) -> Iterator[Path]:
    """One cache for the module, so that what it encodes is encoded once."""
    from helpers import cache_in

    folder = tmp_path_factory.mktemp("cache")
    with cache_in(folder):
        yield folder


@pytest.fixture(scope="session")
def drawn_table(small_laboratories) -> pd.DataFrame:
    """The manifest as a table, paths absolute, rows in another order than the ids."""
    import pandas as pd

    read = pd.read_csv(small_laboratories)
    read["path"] = [str(small_laboratories.parent / path) for path in read["path"]]
    return read.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.fixture(scope="session")
def two_tables(drawn_table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells of one laboratory and those of another."""
    first, second = (drawn_table[drawn_table["domain"] == name].reset_index(drop=True) for name in ("lab-a", "lab-b"))
    return first, second


@pytest.fixture(scope="session")
def suite_file(tmp_path_factory) -> Path:
    """A suite of two rows, two classifiers and two protocols on `laboratories`."""
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def suite_cache(tmp_path_factory) -> Path:
    """A cache for all tests on `laboratories`, so that these are encoded once."""
    return tmp_path_factory.mktemp("suite-cache")


@pytest.fixture(scope="session")
def finished_suite(suite_file, laboratories, suite_cache, tmp_path_factory) -> Path:
    """The results folder of `suite_file`; to be read only."""
    from cellfeat.bench import SuiteRun
    from cellfeat.console import SilentReporter
    from cellfeat.registry import installed
    from cellfeat.suite import read_suite
    from cellfeat.workplace import Workplace

    folder = tmp_path_factory.mktemp("results") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELLFEAT_CACHE", str(suite_cache))
        run = SuiteRun(
            read_suite(suite_file), folder, Workplace(installed(), SilentReporter(), "cpu"), str(laboratories)
        )
        outcome = run()
    assert (outcome.done, outcome.found, outcome.failed) == (6, 0, 0)
    return folder


SUITE = """\
name: tiny
backbone: {name: colour, bins: 3}
classifiers: [lr, majority]
seeds: [1]
protocols:
  transfers: {name: cross-domain, adapt: test, folds: 2, fitted_folds: 1, source: [lab-a]}
  without: {name: cross-domain, adapt: none, folds: 2, source: [lab-a], target: [lab-b], leave_out: [lab-b/eosinophil]}
rows:
  none: {align: none}
  z: {align: per-domain-z, protocols: [transfers]}
"""
