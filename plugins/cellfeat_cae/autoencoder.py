"""What the autoencoders share as align methods: fit, features, save and load; each adds its network and its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from cellfeat import CellfeatError, Cells, Context, load_state, save_state, training
from cellfeat_cae import inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cellfeat_cae.batches import Batch

TRANSFORM_BATCH = 32
NETWORK, EXAMPLES = "network/", "examples/"  # prefixes of the tensors in a saved method


class AutoencoderAligner(ABC):
    """Base of the align methods here; a subclass is a dataclass whose fields are its parameters.

    After fit: `network_`, `channels_`, `domains_` (trained on), `history_` (mean loss and terms per epoch) and
    `examples_` (crops, masks and reconstructions of a few cells), both of which `save` also draws.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("map", "crop", "mask")
    writes: ClassVar[str] = "pooled"
    uses_target: bool = True
    uses_labels: ClassVar[bool] = False
    weights_saw: tuple[str, ...] | None = ()
    domains_: tuple[str, ...] = ()

    epochs: int
    batch_size: int
    accumulate: int
    training_cells: int | None
    learning_rate: float
    warmup_steps: int  # of the learning rate; 0 keeps it constant
    anchor: str | None
    weights: str | None

    @property
    def symmetric(self) -> bool:
        """Whether source and target rows are treated alike: they are, once the anchor is named."""
        return self.anchor is not None

    # What a subclass gives -------------------------------------------------------------------------------------------

    @property
    def balanced(self) -> bool:
        """Whether every batch has the same share of every domain."""
        return False

    @property
    def compared_from(self) -> int:
        """Cells of a domain that a batch must have for the domain to be compared in it."""
        return 1

    @property
    @abstractmethod
    def term_weights(self) -> dict[str, float]:
        """Factor of every term of the loss; the term "domain" compares domains, the others are means over cells."""

    @abstractmethod
    def _build(self) -> nn.Module:
        """The network for maps of `channels_` channels, with fresh parameters."""

    @abstractmethod
    def optimizer(self, parameters: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        """The published optimiser at the base learning rate; fused: whether the device has such steps."""

    @abstractmethod
    def losses(self, network: nn.Module, batch: Batch, gather: Callable[..., Any]) -> dict[str, Tensor]:
        """The unweighted terms; `gather(z, domain)` gives both for the cells of all processes."""

    @abstractmethod
    def encode(self, maps: Tensor) -> Tensor:
        """(B, C, 14, 14) float32 maps -> (B, D) features."""

    @abstractmethod
    def drawn(self, batch: Batch) -> Tensor:
        """(B, 3, 128, 128) float, about [0, 1]: what the network makes of the maps."""

    # The contract of an align method ---------------------------------------------------------------------------------

    def prepare(self, context: Context) -> None:
        """Refuse a folder of weights that is none, before any long work."""
        if self.weights is not None:
            self._read(Path(self.weights))

    def fit(self, cells: Cells, context: Context) -> Self:
        """Train on the maps, crops and masks of all cells given, or take the weights that were named."""
        if self.weights is not None:
            self._become(self._read(Path(self.weights)))
            inputs.same_channels(self.name, self.channels_, inputs.map_channels(self.name, cells, context))
            return self
        from cellfeat_cae.train import Trainer

        self.channels_ = inputs.map_channels(self.name, cells, context)
        inputs.check_crops(self.name, cells)
        cells = inputs.limited(inputs.with_a_mask(self.name, cells, context), self.training_cells, context.seed)
        anchor = inputs.anchor_domain(self.name, cells, self.anchor, context)
        self.domains_ = tuple(np.unique(cells.domain).tolist())
        with training.seeded(context.seed):
            self.network_ = self._build()
        trainer = Trainer(self.network_, cells, self, anchor, context)
        self.history_ = trainer.run()
        self.examples_ = trainer.examples()
        self.network_.eval()
        return self

    def transform(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, D) float32. Also places domains that fit was not shown."""
        import torch

        inputs.same_channels(self.name, self.channels_, inputs.map_channels(self.name, cells, context))
        self.network_.to(context.device).eval()
        features: list[np.ndarray] = []
        with torch.no_grad(), context.progress(len(cells), f"{self.name} · features") as bar:
            for rows, maps in self._maps(cells, context):
                with training.autocast(context.device, context.dtype):
                    encoded = self.encode(maps)
                features.append(encoded[: len(rows)].float().cpu().numpy())
                bar.advance(len(rows))
        return np.concatenate(features) if features else np.empty((0, self._width()), np.float32)

    def _maps(self, cells: Cells, context: Context) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(rows, (32, C, 14, 14) float32 maps on the device): one batch shape throughout, filled up with zeros, so that
        a cell's answer does not depend on how many came with it."""
        import torch
        from torch.nn.functional import pad

        from cellfeat_cae.maps import to_grid

        for rows, batch in cells.batches(("map",), TRANSFORM_BATCH):
            maps = to_grid(batch["map"].to(context.device, torch.float32))
            yield rows, pad(maps, (0, 0, 0, 0, 0, 0, 0, TRANSFORM_BATCH - len(rows)))

    def reconstruct(self, cells: Cells, context: Context) -> np.ndarray:
        """(N, 3, 128, 128) uint8 RGB: the crops of the cells as the network draws them from their maps.

        Where a training hides tokens, as many are hidden here, the same ones of every cell.
        """
        import torch

        from cellfeat_cae.batches import Batch

        inputs.same_channels(self.name, self.channels_, inputs.map_channels(self.name, cells, context))
        self.network_.to(context.device).eval()
        noise = torch.from_numpy(np.random.default_rng(0).random((1, inputs.GRID**2), np.float32)).to(context.device)
        images = np.empty((len(cells), *inputs.CROP), np.uint8)
        with torch.no_grad():
            for rows, maps in self._maps(cells, context):
                nobody = torch.zeros(len(maps), dtype=torch.int64, device=context.device)
                batch = Batch(maps, maps[:0], nobody, noise.expand(len(maps), -1), 1, 0)
                with training.autocast(context.device, context.dtype):
                    drawn = self.drawn(batch)
                images[rows] = as_images(drawn[: len(rows)])
        return images

    @abstractmethod
    def _width(self) -> int:
        """D, the length of a feature vector."""

    def save(self, folder: Path) -> None:
        """The network and what was drawn as safetensors, the history as JSON, both as pictures."""
        tensors = {f"{NETWORK}{key}": value for key, value in self.network_.state_dict().items()}
        tensors |= {f"{EXAMPLES}{key}": value for key, value in self.examples_.items()}
        meta = {"params": asdict(self), "channels": self.channels_, "history": self.history_, "method": self.name}  # type: ignore[call-overload]
        save_state(folder, tensors, meta | {"saw": self.weights_saw, "domains": self.domains_})
        from cellfeat import pictures

        if self.history_:
            pictures.loss_curves(Path(folder) / "losses.png", self.history_, f"{self.name}: losses")
        if self.examples_:
            _draw_examples(Path(folder) / "examples.png", self.examples_, self.name)

    @classmethod
    def load(cls, folder: Path) -> Self:
        import torch

        arrays, meta = load_state(folder)
        if meta.get("method") != cls.name:
            found = repr(meta["method"]) if "method" in meta else "method of another kind"
            raise CellfeatError(f"{folder} holds a fitted {found}, not {cls.name!r}")
        method = cls(**meta["params"])
        method.channels_, method.domains_ = meta["channels"], tuple(meta["domains"])
        order = ("total", *method.term_weights)  # which JSON does not keep
        method.history_ = {key: meta["history"][key] for key in order if key in meta["history"]}
        method.weights_saw = None if meta["saw"] is None else tuple(meta["saw"])
        with training.seeded(0):  # building draws numbers, which nobody else should miss
            method.network_ = method._build()
        method.network_.load_state_dict(
            {
                key.removeprefix(NETWORK): torch.from_numpy(array)
                for key, array in arrays.items()
                if key.startswith(NETWORK)
            }
        )
        method.network_.eval()
        method.examples_ = {
            key.removeprefix(EXAMPLES): array for key, array in arrays.items() if key.startswith(EXAMPLES)
        }
        return method

    def _read(self, folder: Path) -> Self:
        """The fitted method in a folder made by `cellfeat weights import`, or by a run (pipelines/…/align-0)."""
        if not folder.is_dir():
            raise CellfeatError(
                f"align {self.name!r}: weights={folder} is no folder; give one made by `cellfeat weights import`, or "
                "the align-0 of a pipeline in a run folder"
            )
        return type(self).load(folder)

    def _become(self, fitted: Self) -> None:
        """Take over what was fitted and the parameters that it was fitted with, which the network's sizes are among."""
        vars(self).update(vars(fitted) | {"weights": self.weights, "uses_target": False})
        if fitted.domains_ and self.weights_saw is not None:  # of another run, which records of this one must name
            self.weights_saw += tuple(f"{name} (images without labels)" for name in fitted.domains_)
        self.domains_ = ()


def as_images(drawn: Tensor) -> np.ndarray:
    """(B, 3, 128, 128) float, about [0, 1], to uint8."""
    import torch

    return (drawn.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _draw_examples(path: Path, examples: dict[str, np.ndarray], name: str) -> None:
    from cellfeat import images, pictures

    side = inputs.CROP[-1]
    masks = [images.resize_mask(mask, side) for mask in examples["mask"]]
    rows = {
        "original": examples["crop"].transpose(0, 2, 3, 1),
        "mask": np.stack(masks),
        "reconstruction": examples["reconstruction"].transpose(0, 2, 3, 1),
    }
    pictures.image_grid(path, rows, title=f"{name}: cells as the network was shown and drew them")
