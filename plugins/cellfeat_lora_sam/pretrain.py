"""Pre-training of a small SAM from scratch: how `cell-tiny` was made.

One network learns to outline cell and nucleus and to carry in its tokens what a classifier needs. It sees drawn cells,
whose masks and types are exact, and photographs without labels, whose masks a segmenter made; where these cannot be
trusted, the network's own stand in from some step on (self-training). Every photograph is seen in stains, lights and
scales that no laboratory has, and the tokens must tell the original stain and what classical image analysis measured in
it, and agree with a momentum teacher that saw it nearly unchanged. See `pretrain_heads` for sources.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellfeat import CellfeatError
from cellfeat.training import Checkpoint, autocast, choose_dtype, seeded
from cellfeat_lora_sam.checkpoints import build_network, read_weights, save_weights
from cellfeat_lora_sam.network import WITH_NUCLEUS, SamNetwork
from cellfeat_lora_sam.pretrain_check import held_out_iou, scale_tokens, token_deviation
from cellfeat_lora_sam.pretrain_config import PretrainConfig
from cellfeat_lora_sam.pretrain_heads import (
    Heads,
    Teacher,
    agreement_loss,
    comparison_loss,
    descriptor_loss,
    mask_losses,
    pooled,
    stain_loss,
    type_loss,
)
from cellfeat_lora_sam.pretrain_masks import segment_network
from cellfeat_lora_sam.pretrain_pool import NO_TYPE, Pool, recovered_pool, saved_or_made
from cellfeat_lora_sam.pretrain_views import MASK_STRIDE, Views, reduced, sources, views
from cellfeat_lora_sam.pretrain_words import Words, bags, bags_loss, words_loss
from cellfeat_lora_sam.sizes import BUILDS

if TYPE_CHECKING:
    from cellfeat import Context

WORDS_FROM = 256  # photographs that the visual words are found in
HEAD_RATE = 0.1  # of the learning rate: a head sums over a thousand numbers, and each step moves all of its weights
OVERDONE, OVERDONE_EVERY = 1.6, 4  # some frames stray so far that masks fail, or the quality head would see no failure
WEAK = 0.2  # how far the teacher's view strays from the photograph, as a share of the student's


class Answers(NamedTuple):
    """What the teacher says of B views: pooled vectors (B, 6C) and chances of the prototypes (B, P)."""

    vectors: Tensor
    chances: Tensor


class Pretraining:
    """The state of one run: network and heads, their running means (the teacher), optimizer and step."""

    def __init__(self, config: PretrainConfig, drawn: Pool, photographed: Pool | None, context: Context) -> None:
        from cellfeat import synthetic

        self.config, self.context, device = config, context, context.device
        self.pools = [pool.to(device) for pool in (drawn, photographed) if pool is not None]
        self.words = self._words()
        words = 1 if self.words is None else len(self.words.bias)  # fewer than `WORDS` in few photographs
        with seeded(config.seed):
            self.network = _network(config)
            descriptors = drawn.descriptors.shape[1]
            self.heads = Heads(self.network.sizes.embed_dim, descriptors, len(synthetic.ALL_TYPES), words)
        self.network.to(device).train()
        self.heads.to(device).train()
        self.average = deepcopy(self.network).eval().requires_grad_(False)
        self.average_heads = deepcopy(self.heads).eval().requires_grad_(False)
        self.teacher = Teacher(device)
        self.parameters = [*self.network.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(_groups(self.network, self.heads, config.weight_decay), betas=(0.9, 0.98))
        self.step, self.recovered = 0, False

    def _words(self) -> Words | None:
        """The visual words of the photographs, or None without any."""
        if len(self.pools) == 1:
            return None
        config, pool = self.config, self.pools[1]
        generator = torch.Generator().manual_seed(config.seed)
        rows = pool.known.nonzero()[:, 0].cpu()
        rows = rows[torch.randperm(len(rows), generator=generator)[:WORDS_FROM]].to(self.context.device)
        plain = replace(config.near, pasted=0.0)
        batch = views(sources(pool, rows, plain, generator), config.view_size, plain, generator, strength=0.0)
        inside = functional.interpolate(batch.cell[:, None].float(), scale_factor=MASK_STRIDE)[:, 0] > 0
        words = Words.fitted(batch.density.cpu(), inside.cpu(), config.seed)
        return Words(*(values.to(self.context.device) for values in words))

    def train_step(self) -> dict[str, float]:
        """One step: whole frames every few steps, otherwise two near views of each cell; the loss's terms."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        whole = self.step % config.frames_every == 0
        pool, rows = self._rows(config.frame_batch if whole else config.batch_size, generator)
        ranges = config.frames if whole else config.near
        source = _joined([sources(p, r, ranges, generator) for p, r in zip(pool, rows, strict=True)])
        source = reduced(source, config.image_size) if whole else source
        known, drawn, measured, described = _facts(pool, rows)
        size, copies = (config.image_size, 1) if whole else (config.view_size, 2)
        strength = OVERDONE if whole and self.step // config.frames_every % OVERDONE_EVERY == 0 else 1.0
        batch = _stacked([views(source, size, ranges, generator, strength) for _ in range(copies)])
        facts = [values.repeat(copies, *[1] * (values.dim() - 1)) for values in (known, drawn, measured, described)]
        asked = not whole and (config.weights.compare or config.weights.agree)
        answers = self._answers(source, generator) if asked else None
        terms = self._terms(batch, answers, *facts)
        self._update(terms)
        return {name: value.item() for name, value in terms.items()}

    def _rows(self, count: int, generator: torch.Generator) -> tuple[list[Pool], list[Tensor]]:
        """Rows of each pool, photographs and drawn cells in the wanted shares."""
        sizes = [count] if len(self.pools) == 1 else [round(count * self.config.drawn_share)]
        sizes += [count - sizes[0]] * (len(self.pools) - 1)
        rows = [torch.randint(len(p.images), (n,), generator=generator) for p, n in zip(self.pools, sizes, strict=True)]
        return self.pools, [r.to(self.context.device) for r in rows]

    @torch.no_grad()
    def _answers(self, source: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Answers:
        """The teacher's answers to a view that is close to the photograph, for both views of the student."""
        config = self.config
        batch = views(source, config.view_size, config.near, generator, strength=WEAK)
        with autocast(self.context.device, choose_dtype(config.precision)):
            vectors = pooled(self.average.encode(batch.images), batch)
            scores = self.average_heads.scores(self.average_heads.norm(vectors))
        return Answers(vectors.float().repeat(2, 1), self.teacher.answers(scores.float()).repeat(2, 1))

    def _terms(
        self,
        batch: Views,
        answers: Answers | None,
        known: Tensor,
        drawn: Tensor,
        measured: Tensor,
        described: Tensor,
    ) -> dict[str, Tensor]:
        weights, heads = self.config.weights, self.heads
        with autocast(self.context.device, choose_dtype(self.config.precision)):
            output = self.network(batch.images)
            vectors = pooled(output.tokens, batch)
            normal = heads.norm(vectors)
            told = (heads.descriptors(normal), heads.types(normal), heads.stain(output.tokens))
            scores = heads.scores(normal) if answers is not None else None
            spoken = (heads.words(output.tokens), heads.bags(normal)) if self.words is not None else None
        terms = mask_losses(output, batch, known, weights.nucleus, weights.quality)
        terms["descriptors"] = weights.descriptors * descriptor_loss(told[0], measured, described)
        terms["types"] = weights.types * type_loss(told[1], drawn)
        terms["stain"] = weights.stain * stain_loss(told[2], batch, drawn == NO_TYPE)
        if spoken is not None and self.words is not None:
            shares, counted = self.words.shares(batch.density), (drawn == NO_TYPE) & known
            terms["words"] = weights.words * words_loss(spoken[0], shares, batch.cell, counted)
            terms["bags"] = weights.bags * bags_loss(spoken[1], bags(shares, batch.cell, batch.nucleus), counted)
        if scores is not None and answers is not None:
            terms["compare"] = weights.compare * comparison_loss(scores.float(), answers.chances, known)
            terms["agree"] = weights.agree * agreement_loss(vectors, answers.vectors, known)
        return {name: term for name, term in terms.items() if getattr(weights, name, 1.0)}

    def _update(self, terms: dict[str, Tensor]) -> None:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * config.lr * config.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(config.average, self.step / (self.step + 10))  # short at first: the start is no good guess
        with torch.no_grad():
            for mean, now in ((self.average, self.network), (self.average_heads, self.heads)):
                for old, new in zip(mean.parameters(), now.parameters(), strict=True):
                    old.lerp_(new, 1 - decay)

    def check(self, terms: Mapping[str, float]) -> None:
        """Stop, before anything is saved, when a term or a weight, as float16, is no number any more."""
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if broken or not all(bool(value.half().isfinite().all()) for value in self.average.parameters()):
            raise CellfeatError(
                f"pre-training: {broken[0] if broken else 'a weight'} is no number at step {self.step}; what was saved "
                f"before is kept. Try a lower lr (now {self.config.lr:g}) or precision: fp32"
            )

    def recover(self) -> None:
        """Self-training: the averaged network segments what the segmenter could not; once, and kept beside the pool."""
        if self.recovered or len(self.pools) == 1:
            return
        segment = segment_network(self.average, self.config, self.context)
        pool = saved_or_made(
            self.context.scratch / "recovered.safetensors",
            lambda: recovered_pool(self.pools[1].to(torch.device("cpu")), segment, self.context),
        )
        self.pools[1], self.recovered = pool.to(self.context.device), True

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, but for the pools."""
        modules = {name: getattr(self, name).state_dict() for name in _MODULES}
        return {**modules, "centre": self.teacher.centre, "step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        for name in _MODULES:
            getattr(self, name).load_state_dict(state[name])
        self.teacher.centre = state["centre"].to(self.context.device)
        self.step = state["step"]


_MODULES = ("network", "heads", "average", "average_heads", "optimizer")


def pretrain(
    config: PretrainConfig,
    drawn: Pool,
    photographed: Pool | None,
    saw: Sequence[str],
    output: Path,
    context: Context,
) -> dict[str, float]:
    """Train and write the weights to `output`; until then `interim(output)` is renewed every `export_every` steps.

    saw: what the weights are to say that they have seen.

    Returns:
        mean intersection over union on drawn cells that were held out, as {"cell": 0..1, "nucleus": 0..1}.
    """
    run, checkpoint = Pretraining(config, drawn, photographed, context), Checkpoint(context.scratch, "pretrain")
    state = checkpoint.load()
    if state is not None:
        run.restore(state)
        context.note(f"pre-training goes on after step {run.step} of {config.steps}")
    sums: dict[str, float] = {}
    with context.progress(config.steps, "pre-training") as bar:
        bar.advance(run.step)
        while run.step < config.steps:
            if config.recover_at is not None and run.step >= config.recover_at:
                run.recover()
            for name, value in run.train_step().items():
                sums[name] = 0.98 * sums.get(name, value) + 0.02 * value
            bar.advance()
            if run.step % config.export_every == 0:
                run.check(sums)
                checkpoint.save(**run.state())
                _export(interim(output), run, saw)
                context.note(f"step {run.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in sums.items()))
    run.check(sums)
    scale_tokens(run.average, 1 / token_deviation(run.average, config, context))
    found = held_out_iou(run.average, config, context)
    _export(output, run, saw, held_out=found)
    interim(output).unlink(missing_ok=True)
    return found


def interim(output: Path) -> Path:
    """Where unfinished weights lie beside `output`: whoever finds that name finds finished ones."""
    return output.with_name(f"{output.stem}.interim.safetensors")


def _export(path: Path, run: Pretraining, saw: Sequence[str], **facts: Any) -> None:
    """The averaged network as float16 safetensors that say what they saw and how they were made."""
    from importlib.metadata import version

    meta = {
        "build": run.config.build,
        "image_size": run.config.image_size,
        "own_colours": True,
        "saw": list(saw),
        "steps": run.step,
        "config": run.config.as_dict(),
        "versions": {name: version(name) for name in ("cellfeat", "torch", "segment-anything")},
        "hardware": _hardware(run.context.device),
    }
    save_weights(path, run.average.state_dict(), json.loads(json.dumps(meta | facts)))


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _network(config: PretrainConfig) -> SamNetwork:
    """A fresh network, or one that goes on from the weights that the settings name."""
    if config.start_from is not None:
        weights = read_weights(Path(config.start_from))
        if weights.masks != WITH_NUCLEUS:
            raise CellfeatError(
                f"start_from: {config.start_from} has no mask token for the nucleus; name weights made by `pretrain`"
            )
        if weights.sizes != BUILDS[config.build]:
            raise CellfeatError(
                f"start_from: {config.start_from} is not of the build {config.build!r}: its numbers are {weights.sizes}"
            )
        return build_network(weights, config.image_size, own_colours=True)
    network = SamNetwork(BUILDS[config.build], config.image_size, WITH_NUCLEUS, own_colours=True)
    nn.init.trunc_normal_(network.image_encoder.pos_embed, std=0.02)
    return network


def _groups(network: nn.Module, heads: Heads, decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW: matrices decay, biases, norms and positions do not; heads on vectors are slower."""
    groups = []
    token_heads = nn.ModuleList([heads.stain, heads.words])
    slow = {name: p for name, p in heads.named_parameters() if not name.startswith(("stain.", "words."))}
    fast = dict(network.named_parameters()) | dict(token_heads.named_parameters())
    for named, rate in ((fast, 1.0), (slow, HEAD_RATE)):
        still = {name for name, p in named.items() if p.dim() < 2 or "pos" in name}
        for chosen, factor in ((False, decay), (True, 0.0)):
            parameters = [p for name, p in named.items() if (name in still) is chosen]
            groups.append({"params": parameters, "weight_decay": factor, "rate": rate})
    return groups


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    frames, masks, light = (torch.cat(values) for values in zip(*parts, strict=True))
    return frames, masks, light


def _facts(pools: list[Pool], rows: list[Tensor]) -> tuple[Tensor, ...]:
    names = ("known", "drawn", "descriptors", "described")
    chosen = list(zip(pools, rows, strict=True))
    return tuple(torch.cat([getattr(pool, name)[r] for pool, r in chosen]) for name in names)


def _stacked(several: list[Views]) -> Views:
    return Views(*(torch.cat(values) for values in zip(*several, strict=True)))
