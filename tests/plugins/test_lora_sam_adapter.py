"""An adapter's configuration from elsewhere: its numbers are taken, and nothing that peft would import or fetch."""

from __future__ import annotations

import json

import pytest
import torch
from cellfeat_lora_sam.adapter import add_lora, merge_lora, save_adapter
from cellfeat_lora_sam.checkpoints import build_network, read_weights
from cellfeat_lora_sam.described import LORA
from cellfeat_lora_sam.named import NAMED_WEIGHTS

from cellfeat import CellfeatError

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = NAMED_WEIGHTS["cell-tiny-v1"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """(folder, the weights that its LoRA products were added to)."""
    folder = tmp_path_factory.mktemp("adapter")
    network = build_network(read_weights(WEIGHTS.path), 64)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        lora = add_lora(network, rank=2)
        for name, value in lora.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value)
    save_adapter(folder, network, lora, {})
    return folder, lora.merge_and_unload().state_dict()


def test_the_numbers_are_peft_s_own(adapter):
    folder, wanted = adapter
    network = build_network(read_weights(WEIGHTS.path), 64)
    before = {name: value.clone() for name, value in network.image_encoder.state_dict().items()}
    merge_lora(network, folder)
    found = network.image_encoder.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(found[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "change",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"peft_type": "PROMPT_TUNING"},
        {"use_dora": True},
        {"unheard_of": "x"},
    ],
)
def test_more_than_lora_is_refused(adapter, change):
    path = adapter[0] / LORA / "adapter_config.json"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | change))
    try:
        with pytest.raises(
            CellfeatError, match=rf"config\.json asks for {', '.join(sorted(change))}, which no adapter"
        ):
            merge_lora(build_network(read_weights(WEIGHTS.path), 64), adapter[0])
        path.write_text("[1]")
        with pytest.raises(CellfeatError, match="is no configuration of an adapter: "):
            merge_lora(build_network(read_weights(WEIGHTS.path), 64), adapter[0])
    finally:
        path.write_text(good)
