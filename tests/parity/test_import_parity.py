"""DoRL's autoencoder through the importer: a checkpoint as the authors' program writes it gives their numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cellfeat_cae.cae import Cae
from cellfeat_cae.network import as_tokens
from cellfeat_cae.published import import_dorl_cae
from parity.published import DATA, fill

from cellfeat import Cells
from cellfeat.testing import cpu_context

pytestmark = pytest.mark.usefixtures("one_thread")

REFERENCE = json.loads((DATA / "cae.json").read_text())
RTOL = 1e-4


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(DATA / "cae.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=["", "module."], ids=["one GPU", "several GPUs"])
def method(request, tmp_path_factory) -> Cae:
    folder = tmp_path_factory.mktemp("published")
    content = {
        request.param + key: torch.from_numpy(fill(f"cae.{key}", shape)) for key, shape in REFERENCE["keys"].items()
    }
    torch.save(content, folder / "AE-SAM300.mdl")
    (folder / "cae").mkdir()
    import_dorl_cae(folder / "AE-SAM300.mdl", folder / "cae", heads=REFERENCE["config"]["heads"])
    return Cae.load(folder / "cae")


def agrees(got: torch.Tensor | np.ndarray, wanted: np.ndarray) -> None:
    """Within RTOL of the tensor's largest entry, on the whole tensor."""
    assert tuple(got.shape) == wanted.shape
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=RTOL, atol=RTOL * float(np.abs(wanted).max()))


def test_features_are_the_class_tokens(method, numbers, tmp_path: Path):
    cells = Cells.from_arrays(np.zeros(len(numbers["input"])), map=numbers["input"])
    agrees(method.transform(cells, cpu_context(tmp_path)), numbers["cls_feature"])


@torch.no_grad()
def test_every_output_of_the_network(method, numbers):
    tokens = as_tokens(torch.from_numpy(numbers["input"]))
    output = method.network_(tokens)
    agrees(method.network_.encoder(tokens), numbers["tokens"])
    agrees(output.tokens.transpose(1, 2), numbers["feature_out"])
    agrees(output.image, numbers["reconstruction"])
    agrees(output.z, numbers["z"])


@torch.no_grad()
def test_the_masked_pass_restores_the_authors_tokens(method, numbers):
    order = torch.from_numpy(numbers["masked_order"]).T
    output = method.network_(as_tokens(torch.from_numpy(numbers["input"])), order, 49)
    agrees(output.tokens.transpose(1, 2), numbers["masked_feature_out"])
    agrees(output.image, numbers["masked_reconstruction"])
    agrees(output.z, numbers["masked_z"])
