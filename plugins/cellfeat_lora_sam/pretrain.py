"""Pre-training of a small SAM from scratch on synthetic cells: how `cell-tiny` was made.

Cell against background by the two-class decoder, with two helpers that are thrown away afterwards: the nucleus read off
the tokens, and the drawn class read off their mean over the cell, so that the tokens carry more than the outline. No
real image and no real label is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellfeat import CellfeatError
from cellfeat.training import Checkpoint, autocast, choose_dtype, seeded, warmup_cosine
from cellfeat_lora_sam.checkpoints import save_weights
from cellfeat_lora_sam.losses import segmentation_loss
from cellfeat_lora_sam.named import SYNTHETIC_SAW
from cellfeat_lora_sam.network import SamNetwork, two_class_mask
from cellfeat_lora_sam.pretrain_data import CellBatch, SyntheticCells, batches
from cellfeat_lora_sam.sizes import BUILDS

if TYPE_CHECKING:
    from cellfeat import Context

HELD_OUT_SEED = 1_000_003  # added to the seed for cells that are never trained on
CLASSES = 5


@dataclass(frozen=True)
class PretrainConfig:
    """The numbers of one pre-training run.

    Attributes:
        build: name of the network's sizes. image_size: side of its frame, px.
        steps, batch_size, lr, weight_decay, warmup, clip: of AdamW; after `warmup` steps the rate falls to 0.
        average: decay of the running mean of the weights, which is what is saved.
        nucleus_weight, class_weight: weights of the two helpers' losses beside the segmentation's 1.
        drawn_size, shares: see `SyntheticCells`.
        precision: fp32 or bf16, of the forward pass. seed: of weights and cells.
        export_every: steps between checkpoints and interim files.
        held_out: cells, never trained on, that the final mask is measured on.
    """

    build: str = "tiny"
    image_size: int = 224
    steps: int = 2000
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 100
    clip: float = 1.0
    average: float = 0.995
    nucleus_weight: float = 0.3
    class_weight: float = 0.2
    drawn_size: int = 128
    shares: tuple[float, float] = (0.25, 0.9)
    precision: str = "fp32"
    seed: int = 1234
    export_every: int = 200
    held_out: int = 200


def read_config(path: Path) -> PretrainConfig:
    """A YAML file of `PretrainConfig`'s fields; what is not given keeps its default.

    Raises:
        CellfeatError: for a file that is no mapping, an unknown field or a value of the wrong type.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CellfeatError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    fields = PretrainConfig.__dataclass_fields__
    if not isinstance(values, dict) or set(values) - set(fields):
        got = sorted(set(values) - set(fields)) if isinstance(values, dict) else type(values).__name__
        raise CellfeatError(f"{path} holds {got}, which is no pre-training setting. Possible: {', '.join(fields)}")
    try:
        config = TypeAdapter(PretrainConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise CellfeatError(f"{path}: {first['loc'][-1]} = {first['input']!r}: {first['msg']}") from error
    if config.build not in BUILDS:
        raise CellfeatError(f"{path}: build = {config.build!r}. Possible: {', '.join(BUILDS)}")
    choose_dtype(config.precision)
    return config


class Helpers(nn.Module):
    """Heads that make the tokens (B, C, h, w) carry nucleus and class; not part of the saved network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nucleus = nn.Conv2d(width, 2 * 4 * 4, kernel_size=1)
        self.classes = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CLASSES))

    def forward(self, tokens: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Nucleus logits (B, 2, 4h, 4w) and class logits (B, 5), the latter from the mean over the true cell."""
        share = functional.adaptive_avg_pool2d(cell[:, None].float(), (tokens.shape[-2], tokens.shape[-1]))
        mean = (tokens.float() * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp(min=1e-6)
        return functional.pixel_shuffle(self.nucleus(tokens), 4), self.classes(mean)


class Pretraining:
    """The state of one run: network, helpers, optimizer and the running mean of the network's weights."""

    def __init__(self, config: PretrainConfig, context: Context) -> None:
        self.config, self.context = config, context
        with seeded(config.seed):
            self.network = SamNetwork(BUILDS[config.build], config.image_size)
            nn.init.trunc_normal_(self.network.image_encoder.pos_embed, std=0.02)
            self.helpers = Helpers(self.network.sizes.embed_dim)
        self.cells = SyntheticCells(
            config.seed, config.steps * config.batch_size, config.image_size, config.drawn_size, config.shares
        )
        _measure_colours(self.network, self.cells)
        self.network.to(context.device).train()
        self.helpers.to(context.device).train()
        self.parameters = [*self.network.parameters(), *self.helpers.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.step = 0

    def train_step(self, batch: CellBatch) -> dict[str, float]:
        """One step on one batch; the loss's terms."""
        config, device = self.config, self.context.device
        batch = CellBatch(*(values.to(device, non_blocking=True) for values in batch))
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * warmup_cosine(self.step, config.warmup, config.steps)
        with autocast(device, choose_dtype(config.precision)):
            output = self.network(batch.images)
            nucleus, classes = self.helpers(output.tokens, batch.cell)
        terms = {
            "mask": segmentation_loss(output.logits.float(), batch.cell).loss,
            "nucleus": config.nucleus_weight * segmentation_loss(nucleus.float(), batch.nucleus).loss,
            "class": config.class_weight * functional.cross_entropy(classes.float(), batch.label),
        }
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return {name: value.item() for name, value in terms.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.average, self.step / (self.step + 10))  # short at first: the start is no good guess
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "network": self.network.state_dict(),
            "helpers": self.helpers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.helpers.load_state_dict(state["helpers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = {name: value.to(self.context.device) for name, value in state["average"].items()}
        self.step = state["step"]

    def export(self, path: Path, **facts: Any) -> None:
        """The averaged network as float16 safetensors that say what they saw and how they were made."""
        from importlib.metadata import version

        meta = {
            "build": self.config.build,
            "image_size": self.config.image_size,
            "saw": list(SYNTHETIC_SAW),
            "steps": self.step,
            "config": self.config.__dict__,
            "versions": {name: version(name) for name in ("cellfeat", "torch", "segment-anything")},
        }
        save_weights(path, self.average, json.loads(json.dumps(meta | facts)))


def pretrain(config: PretrainConfig, output: Path, context: Context) -> dict[str, float]:
    """Train from scratch and write the weights to `output`; interim files every `export_every` steps.

    Returns:
        mean intersection over union on held-out synthetic cells, as {"iou": 0..1}.
    """
    run, checkpoint = Pretraining(config, context), Checkpoint(context.scratch, "pretrain")
    state = checkpoint.load()
    if state is not None:
        run.restore(state)
        context.note(f"pre-training goes on after step {run.step} of {config.steps}")
    with context.progress(config.steps, "pre-training") as bar:
        bar.advance(run.step)
        for batch in batches(run.cells, config.batch_size, first=run.step * config.batch_size):
            terms = run.train_step(batch)
            bar.advance()
            if run.step % config.export_every == 0:
                checkpoint.save(**run.state())
                run.export(output)
                context.note(f"step {run.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in terms.items()))
    run.network.load_state_dict(run.average)
    scale_tokens(run.network, 1 / token_deviation(run.network, config, context))
    run.average = run.network.state_dict()
    found = {"iou": held_out_iou(run.network, config, context)}
    run.export(output, held_out=found)
    return found


@torch.no_grad()
def scale_tokens(network: SamNetwork, factor: float) -> None:
    """Multiply the tokens before the neck by `factor`, in place, and change nothing else.

    Every layer that adds to the tokens is scaled. Those that read them, in the blocks and after the neck's first
    convolution, normalise first and do not notice. Methods that reconstruct tokens (a squared error beside other
    losses) depend on the scale; training from scratch leaves it to chance.
    """
    encoder = network.image_encoder
    encoder.pos_embed.mul_(factor)
    for layer in (encoder.patch_embed.proj, *(part for b in encoder.blocks for part in (b.attn.proj, b.mlp.lin2))):
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)


@torch.inference_mode()
def token_deviation(network: SamNetwork, config: PretrainConfig, context: Context) -> float:
    """Standard deviation of all token values on held-out synthetic cells."""
    network.eval()
    found = [network.encode(batch.images.to(context.device)) for batch in _held_out(config)]
    return torch.cat(found).std().item()


@torch.inference_mode()
def held_out_iou(network: SamNetwork, config: PretrainConfig, context: Context) -> float:
    """Mean intersection over union of the predicted cell on synthetic cells of another seed, at every fourth pixel."""
    network.eval()
    found: list[Tensor] = []
    for batch in _held_out(config):
        predicted = two_class_mask(network(batch.images.to(context.device)).logits, config.image_size)[:, ::4, ::4]
        truth = batch.cell.to(context.device).bool()
        found.append((predicted & truth).sum((1, 2)) / (predicted | truth).sum((1, 2)))
    return torch.cat(found).mean().item()


def _held_out(config: PretrainConfig) -> Iterable[CellBatch]:
    cells = SyntheticCells(
        config.seed + HELD_OUT_SEED, config.held_out, config.image_size, config.drawn_size, config.shares
    )
    return batches(cells, min(config.batch_size, config.held_out))


def _measure_colours(network: SamNetwork, cells: SyntheticCells, count: int = 256) -> None:
    """Set the network's input mean and deviation: means over images of each image's mean and deviation."""
    images = torch.stack([torch.from_numpy(cells[index][0]).float() for index in range(min(count, len(cells)))])
    network.pixel_mean.copy_(images.mean(dim=(0, 1, 2)).view(3, 1, 1))
    network.pixel_std.copy_(images.std(dim=(1, 2), correction=0).mean(dim=0).view(3, 1, 1))
