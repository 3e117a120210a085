"""The settings of pre-training: what a YAML file may say, and the learning rate that follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cellfeat_lora_sam.pretrain_config import LossWeights, PretrainConfig, read_config
from cellfeat_lora_sam.pretrain_views import Ranges

from cellfeat import CellfeatError

SHIPPED = sorted((Path(__file__).parents[2] / "benchmarks").glob("cell-tiny*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_settings_are_read(path):
    written, config = yaml.safe_load(path.read_text()), read_config(path).as_dict()
    assert written
    for name, value in written.items():
        got = {key: config[name][key] for key in value} if isinstance(value, dict) else config[name]
        assert json.loads(json.dumps(got)) == value, name


def test_there_are_shipped_settings():
    assert SHIPPED


def test_what_is_not_given_keeps_its_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("steps: 7\nnear: {shares: [0.5, 0.6], noise: 2}\nweights: {stain: 0.25}\nmasks: one.safetensors\n")
    near, weights = Ranges(shares=(0.5, 0.6), noise=2.0), LossWeights(stain=0.25)
    assert read_config(path) == PretrainConfig(steps=7, near=near, weights=weights, masks="one.safetensors")
    path.write_text("{}")
    assert read_config(path) == PretrainConfig()


def test_written_settings_are_read_as_the_same(tmp_path):
    config = PretrainConfig(lr=0.5, start_from="a.safetensors", frames=Ranges(gain=(-2.0, 0.1)), view_size=96)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config.as_dict()))))
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps: 3", r"holds \['stepps'\], which is no pre-training setting. Possible: build, image_size"),
        ("near: {shares: [0.3, 0.9], blur: 3}", r"holds \['blur'\], which is no pre-training setting.*shares, offset"),
        ("frames: {nois: 3}", r"holds \['nois'\], .*resolution, noise"),
        ("weights: {class: 3}", r"holds \['class'\], .*nucleus, quality, types"),
        ("weights: 3", "holds int, which is no pre-training setting. Possible: nucleus"),
        ("- 3", "holds list, which is no pre-training setting"),
        ("", "holds NoneType, which is no pre-training setting"),
        ("steps: many", "steps = 'many': Input should be a valid integer"),
        ("near: {shares: [0.3, wide]}", r"near\.shares\.1 = 'wide': Input should be a valid number"),
        ("frames: {gain: [0.3]}", r"frames\.gain\.1 = "),
        ("recover_at: soon", "recover_at = 'soon': Input should be a valid integer"),
        ("weights: {stain: much}", r"weights\.stain = 'much': Input should be a valid number"),
        ("build: huge", "build = 'huge'. Possible: tiny, vit_b"),
        ("precision: fp8", "precision = 'fp8'. Possible: fp32, bf16"),
        ("precision: fp16", "precision = 'fp16'. Possible: fp32, bf16"),
        ("seed: -1", "seed = -1; possible are numbers from 0 to inf"),
        ("average: 3.0", "average = 3.0; possible are numbers from 0 to 1"),
        ("recover_at: -5", "recover_at = -5; possible are numbers from 0"),
        ("lr: 0", "lr = 0.0; possible are numbers from 1e-12"),
        ("clip: .inf", "clip = inf; possible are numbers"),
        ("weights: {stain: -1}", r"weights\.stain = -1\.0; possible are numbers from 0"),
        ("near: {shares: [0, 0]}", r"near\.shares = 0\.0; possible are numbers from 0\.02 to 2"),
        ("frames: {resolution: [-3, 1]}", r"frames\.resolution = -3\.0; possible are numbers from 0\.02 to 1"),
        ("a: [", "cannot be read as YAML"),
        ("image_size: 100", "image_size = 100; possible are multiples of 16 from 32 to image_size"),
        ("image_size: 16", "image_size = 16; possible"),
        ("view_size: 100", "view_size = 100; possible"),
        ("view_size: 16", "view_size = 16; possible"),
        ("{image_size: 64, view_size: 80}", "view_size = 80; possible are multiples of 16 from 32 to image_size"),
        ("steps: 0", "steps = 0; at least 1 is needed"),
        ("batch_size: 0", "batch_size = 0; at least 1 is needed"),
        ("frames_every: 0", "frames_every = 0; at least 1 is needed"),
        ("export_every: 0", "export_every = 0; at least 1 is needed"),
        ("held_out: 0", "held_out = 0; at least 1 is needed"),
        ("drawn_size: 16", "drawn_size = 16; at least 32 is needed"),
        ("pool_size: 16", "pool_size = 16; at least 32 is needed"),
        ("drawn_share: 1.5", "drawn_share = 1.5; possible are numbers from 0 to 1"),
    ],
)
def test_wrong_settings_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CellfeatError, match=message) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_one_clear_line(tmp_path):
    with pytest.raises(CellfeatError, match=r"absent\.yaml cannot be read"):
        read_config(tmp_path / "absent.yaml")


def test_the_rate_rises_stays_and_falls():
    config = PretrainConfig(steps=100, warmup=4, cooldown=10)
    assert [config.rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert config.rate(90) == 1.0
    assert [config.rate(step) for step in (91, 95, 99)] == pytest.approx([0.9, 0.5, 0.1])
    assert replace(config, cooldown=0).rate(99) == 1.0  # to be taken up again by a later run
    assert replace(config, warmup=0).rate(0) == 1.0
