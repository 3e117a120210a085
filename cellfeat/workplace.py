"""Where a command works: plugins, device, cache, the person who looks on; and its data and encoder from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellfeat import datasets, distributed, storage
from cellfeat.deferred import deferred
from cellfeat.extract import Encoder
from cellfeat.known_files import KnownFiles
from cellfeat.recipe import DEMO, DatasetSection, Part, Recipe
from cellfeat.registry import Registry
from cellfeat.slots import Context, Reporter
from cellfeat.store import cache_folder, fingerprint
from cellfeat.training import choose_device, choose_dtype
from cellfeat.unlabelled import without_labels

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Workplace:
    """Where and how to compute, apart from what: nothing here changes a result beyond rounding, be it bf16's or that of
    maps kept as float16.

    batch: images that a backbone is given at once; None chooses. half_maps: keep token maps as float16. compile: see
    `Context`.
    """

    registry: Registry
    reporter: Reporter
    device: str = "auto"
    precision: str = "fp32"
    skip_bad: bool = False
    batch: int | None = None
    half_maps: bool = False
    compile: bool = False

    @classmethod
    def on_terminal(
        cls,
        device: str = "auto",
        precision: str = "fp32",
        skip_bad: bool = False,
        batch: int | None = None,
        half_maps: bool = False,
        compile: bool = False,
    ) -> Workplace:
        """The installed plugins, and a person in front of the screen: what a command works in."""
        from cellfeat.console import SilentReporter, TerminalReporter
        from cellfeat.registry import installed

        reporter = TerminalReporter() if distributed.is_main() else SilentReporter()
        return cls(installed(), reporter, device, precision, skip_bad, batch, half_maps, compile)

    def context(self, seed: int, purpose: str, settings: Any = None) -> Context:
        """A context whose scratch folder lives in the cache, named after `purpose` and (JSON) `settings`."""
        import torch

        name = purpose if settings is None else f"{purpose}-{fingerprint({'settings': settings})[:20]}"
        scratch = cache_folder() / "scratch" / name
        scratch.mkdir(parents=True, exist_ok=True)
        return Context(
            device=choose_device(self.device),
            dtype=choose_dtype(self.precision),
            generator=torch.Generator().manual_seed(seed),
            scratch=scratch,
            reporter=self.reporter,
            compile=self.compile,
        )


def load_dataset(section: DatasetSection, work: Workplace) -> datasets.Dataset:
    """The recipe's data set with every image decoded once: bad ones are an error now, or skipped when asked for."""
    return checked(listed(section, work), work)


def listed(section: DatasetSection, work: Workplace) -> datasets.Dataset:
    """The recipe's data set as its manifest lists it; no image is looked into."""
    manifest: Path | str
    if section.manifest == DEMO:
        from cellfeat.demo import demo_manifest

        with distributed.main_first(choose_device(work.device)):
            manifest = demo_manifest(cache_folder() / "demo", work.reporter.progress)
        work.reporter.note("no data named (--data): the built-in demo set of three synthetic laboratories is used")
    else:
        manifest = storage.located(section.manifest)
    dataset = datasets.read_manifest(manifest, section.labels, section.domains or None, skip_bad=work.skip_bad)
    for text in dataset.notes():
        work.reporter.note(text)
    return datasets.without_classes(dataset, section.leave_out)


def load_photographs(
    manifest: str, domains: Sequence[str], leave_out: Sequence[str], work: Workplace
) -> datasets.Dataset:
    """Images of a manifest without their labels, each decoded once: for training that may see none."""
    dataset = without_labels(manifest, domains or None, leave_out, work.skip_bad)
    for text in dataset.notes():
        work.reporter.note(text)
    return checked(dataset, work)


def checked(dataset: datasets.Dataset, work: Workplace) -> datasets.Dataset:
    """Every file decoded once, or known since an earlier run."""
    known = KnownFiles(cache_folder() / "files.sqlite")
    return datasets.check_images(dataset, work.skip_bad, work.reporter.progress, known=known)


def make_encoder(recipe: Recipe, work: Workplace, context: Context) -> Encoder:
    """The recipe's backbone and segmenter, and the identity of the store that their output belongs to."""
    import torch

    backbone = deferred(work.registry.find("backbone", recipe.backbone.name), recipe.backbone.params, context)
    segmenter = None
    if recipe.segmenter is not None:
        segmenter = deferred(work.registry.find("segmenter", recipe.segmenter.name), recipe.segmenter.params, context)
    compiles = getattr(work.registry.find("backbone", recipe.backbone.name).factory, "compiles", False)
    if context.compile and not compiles:
        context.note(f"--compile changes nothing in the backbone {recipe.backbone.name}")
    way = {
        "backbone": _identity("backbone", recipe.backbone, backbone, work),
        "weights_sha256": getattr(backbone, "weights_sha256", None),
        "segmenter": recipe.segmenter and _identity("segmenter", recipe.segmenter, segmenter, work),
        "frame": [backbone.image_size, backbone.interpolation],
        "device": context.device.type,
        "precision": str(context.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **_kernels(context.device),
        **({"compiled": True} if context.compile and compiles else {}),
    }
    maps = "float16" if work.half_maps else "float32"
    return Encoder(backbone, segmenter, way, cache_folder() / "stores", context, work.batch, maps)


def _kernels(device: torch.device) -> dict[str, str]:
    """What decodes and computes: other versions, or other instructions of a processor, give other last digits."""
    import torch

    names = ("cellfeat", "torch", "opencv-python-headless", "pillow")
    kernels = {"instructions": torch.backends.cpu.get_cpu_capability()} if device.type == "cpu" else {}
    return {name: version(name) for name in names} | kernels


def _identity(slot: str, part: Part, product: Any, work: Workplace) -> dict[str, Any]:
    """What tells one encoder from another. Where the weights have a digest, it stands for the paths of their files."""
    offer = work.registry.find(slot, part.name)
    sha256 = getattr(product, "weights_sha256", None)
    params = offer.resolve(part.params)
    if sha256 is not None:
        params = {key: value for key, value in params.items() if not (isinstance(value, str) and Path(value).exists())}
    return {
        "name": offer.name,
        "distribution": offer.distribution,
        "version": offer.version,
        "parameters": params,
        "weights_sha256": sha256,
    }
