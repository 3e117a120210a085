"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other make small networks slow on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
