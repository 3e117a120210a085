"""Backbones as ONNX files, which run without cellfeat and without PyTorch; kept only where they give the same answers.

What is exported is what a backbone offers by `onnx_module`, see `cellfeat.slots.Backbone`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellfeat import compose
from cellfeat.artifacts import atomic_file
from cellfeat.errors import CellfeatError
from cellfeat.extras import import_extra
from cellfeat.fitted_pipelines import check_takes_images
from cellfeat.manifest import refuse_existing
from cellfeat.pipeline import read_about, resolve
from cellfeat.recipe import Part, parse
from cellfeat.registry import Registry
from cellfeat.run import read_run, saved_recipe
from cellfeat.slots import Backbone

if TYPE_CHECKING:
    import numpy as np
    import torch

OPSET = 20  # the newest that onnxruntime 1.20, the oldest that the extra allows, reads in whole
CLOSE = 1e-3  # of the largest number of an output
SAME_PIXELS = 0.999  # of all masks
BATCHES = (2, 3)  # of the check: two sizes, as the batch may have any
LARGEST = 2**31 - 2**20  # bytes of the weights of a file that holds them itself: protobuf ends at 2 GiB
INPUT = "images"
OUTPUTS = ("embedding", "mask", "pooled", "quality")


class Agreement(NamedTuple):
    """How far an ONNX file is from its backbone over the same images, one figure for each of the file's outputs.

    differences: {output: largest difference over the largest number of the backbone's own answer}, of number outputs.
    pixels: share of equal pixels of the masks; None where there is no mask.
    """

    differences: dict[str, float]
    pixels: float | None

    @property
    def holds(self) -> bool:
        """Whether all figures are within the limits, 1e-3 and 99.9 %; a figure that is no number is not."""
        close = all(difference <= CLOSE for difference in self.differences.values())
        return close and (self.pixels is None or self.pixels >= SAME_PIXELS)

    def __str__(self) -> str:
        told = [f"{name} {value:.1e}" for name, value in self.differences.items()]
        return ", ".join([*told, *([] if self.pixels is None else [f"mask {100 * self.pixels:.3f} % of pixels"])])


def export(backbone: Backbone, out: Path, name: str = "backbone") -> Agreement:
    """Write the new file `out` (.onnx) and check it; gives how well it agrees. Nothing is kept that does not agree.

    The graph takes `images`, (B, 3, S, S) uint8 RGB of any B, and gives, as far as the backbone has them, `embedding`
    (B, C, h, w) or (B, D), `mask` (B, S, S) bool, `pooled` (B, D) and `quality` (B,). What it is made of stands in
    its metadata. backbone: on the CPU and in float32. name: as it is called, for messages and metadata.

    Raises:
        CellfeatError: for a backbone that cannot be exported, a file that exists, absent packages, or answers that
            differ by more than `Agreement.holds` allows.
    """
    if out.suffix.lower() != ".onnx":
        raise CellfeatError(f"{out}: the name must end in .onnx")
    refuse_existing(out)
    onnx = import_extra("onnx", "the export to ONNX")
    for needed in ("onnxscript", "onnxruntime"):
        import_extra(needed, "the export to ONNX")
    module = _module_of(backbone, name)
    model = _traced(module, backbone.image_size)
    with atomic_file(out) as partial:
        onnx.save(model, partial)
        agreement = check(partial, backbone)
        if not agreement.holds:
            raise CellfeatError(
                f"the ONNX file of {name} differs from it ({agreement}; allowed are {CLOSE:g} and "
                f"{100 * SAME_PIXELS:g} % of pixels), so it was not kept; tell the backbone's author"
            )
        onnx.helper.set_model_props(model, _metadata(backbone, name, module.outputs, agreement))
        onnx.checker.check_model(model)
        onnx.save(model, partial)
    return agreement


def check(path: Path, backbone: Backbone, images: Sequence[np.ndarray] | None = None, seed: int = 0) -> Agreement:
    """How well an ONNX file agrees with a backbone, by onnxruntime on the CPU.

    images: batches, each (B, 3, S, S) uint8 RGB; None: seeded drawn cells in two batch sizes.

    Raises:
        CellfeatError: for a file that onnxruntime does not read, or whose outputs the backbone does not have.
    """
    import torch

    session = _session(path, "the check of an ONNX file")
    names = [output.name for output in session.get_outputs()]
    batches = drawn_batches(backbone.image_size, seed) if images is None else images
    found: dict[str, list[Any]] = {name: [] for name in names}
    wanted: dict[str, list[Any]] = {name: [] for name in names}
    for batch in batches:
        with torch.inference_mode():
            answer = _answers(backbone, torch.from_numpy(batch))
        absent = [name for name in names if name not in answer]
        if absent:
            raise CellfeatError(f"{path} gives {', '.join(absent)}, which this backbone does not: it is another's file")
        for name, value in zip(names, session.run(names, {INPUT: batch}), strict=True):
            found[name].append(value)
            wanted[name].append(answer[name])
    return _agreement(found, wanted)


def read_metadata(path: Path) -> dict[str, str]:
    """What an exported file says of itself: cellfeat's version, weights, opset, image size, agreement.

    Raises: CellfeatError without onnxruntime, and for a file that it does not read.
    """
    session = _session(path, "reading an ONNX file")
    return dict(session.get_modelmeta().custom_metadata_map)


def _session(path: Path, purpose: str) -> Any:
    runtime = import_extra("onnxruntime", purpose)
    try:
        return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an error of its own for every reason
        raise CellfeatError(f"{path} is not read by onnxruntime: {' '.join(str(error).split())[:300]}") from None


def drawn_batches(size: int, seed: int = 0, counts: Sequence[int] = BATCHES) -> list[np.ndarray]:
    """Batches of (B, 3, size, size) uint8 RGB drawn cells, of all classes and laboratories in turn."""
    import numpy as np

    from cellfeat.synthetic import CLASSES, LABORATORIES, draw_cell

    rng = np.random.default_rng(seed)
    laboratories = list(LABORATORIES)
    cells = [
        draw_cell(CLASSES[i % len(CLASSES)], laboratories[i % len(laboratories)], rng, size) for i in range(sum(counts))
    ]
    frames = np.stack([cell.image.transpose(2, 0, 1) for cell in cells])
    return np.split(frames, np.cumsum(counts)[:-1])


def chosen_part(run: Path | None, backbone: str | None, sets: Sequence[str], registry: Registry) -> Part:
    """The backbone that is asked for, by name and parameters, or that of a run folder or a saved pipeline.

    Raises:
        CellfeatError: for both at once, or a folder that is no run.
    """
    if run is None:
        return resolve(compose.recipe(backbone=backbone, sets=sets, sections=("backbone",)), registry).backbone
    if backbone is not None or sets:
        raise CellfeatError(f"--run {run} has a backbone of its own: leave --backbone and --set out, or --run")
    folders = read_run(run)
    if not folders:
        raise CellfeatError(f"{run} has no saved pipeline, so that its backbone is not known")
    folder = next(iter(folders.values()))  # every source has the same backbone
    check_takes_images(folder)
    recipe = saved_recipe(folder, parse(read_about(folder)["recipe"], f"the recipe in {folder}"))
    if recipe.segmenter is not None:
        raise CellfeatError(
            f"the masks of {run} are those of the segmenter {recipe.segmenter.name}, which is not exported; for the "
            f"backbone alone: cellfeat onnx OUT.onnx --backbone {recipe.backbone.name}"
        )
    return recipe.backbone


def _module_of(backbone: Backbone, name: str) -> Any:
    """The backbone's own graph, refused where one file cannot hold it."""
    if not hasattr(backbone, "onnx_module"):
        raise CellfeatError(
            f"backbone {name!r} cannot be exported to ONNX: it offers no onnx_module; lora-sam, resnext50 and timm do"
        )
    module = backbone.onnx_module()
    unknown = [one for one in module.outputs if one not in OUTPUTS]
    if unknown or len(set(module.outputs)) < len(module.outputs):
        raise CellfeatError(
            f"backbone {name!r} wants to export {', '.join(module.outputs)}; possible are {', '.join(OUTPUTS)}, each "
            "once. Tell its author"
        )
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if size > LARGEST:
        raise CellfeatError(
            f"the weights of {name} take {size / 1e9:.1f} GB, and one ONNX file holds 2.1 GB at most; export a smaller "
            "network, such as vit_b or cell-tiny"
        )
    return module.eval().requires_grad_(False)


def _traced(module: Any, size: int) -> Any:
    """The ONNX model of a module, without the traces of this machine's files that the exporter leaves in it."""
    import logging
    import warnings

    import torch

    example = torch.from_numpy(drawn_batches(size, counts=BATCHES[:1])[0])
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of itself is nothing that a user could mend
        logger.setLevel(logging.ERROR)
        try:
            program: Any = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=[INPUT],
                output_names=list(module.outputs),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise CellfeatError(f"PyTorch cannot write this network as ONNX: {' '.join(lines)[:300]}") from None
        finally:
            logger.setLevel(before)
    model = program.model_proto
    for part in (model.graph, *model.functions):
        for item in (part, *part.node, *part.value_info):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    for item in (*model.graph.input, *model.graph.output):
        item.ClearField("metadata_props")
    return model


def _answers(backbone: Backbone, images: torch.Tensor) -> dict[str, np.ndarray]:
    """What the backbone itself, and the core after it, make of a batch, under the names of the graph's outputs."""
    from cellfeat.images import masked_mean

    features = backbone.encode(images)
    pooled = masked_mean(features.embedding, features.mask) if features.pooled is None else features.pooled
    values = {"embedding": features.embedding, "mask": features.mask, "pooled": pooled, "quality": features.quality}
    return {name: value.cpu().numpy() for name, value in values.items() if value is not None}


def _agreement(found: Mapping[str, list[Any]], wanted: Mapping[str, list[Any]]) -> Agreement:
    import numpy as np

    differences, pixels = {}, None
    for name in found:
        if name == "mask":
            pixels = float(np.mean(np.concatenate(found[name]) == np.concatenate(wanted[name])))
            continue
        theirs, ours = (np.concatenate(some[name]).astype(np.float64) for some in (found, wanted))
        scale = np.abs(ours).max()
        differences[name] = float(np.abs(theirs - ours).max() / (scale if scale > 0 else 1.0))
    return Agreement(differences, pixels)


def _metadata(backbone: Backbone, name: str, outputs: Sequence[str], agreement: Agreement) -> dict[str, str]:
    from importlib.metadata import version

    saw = getattr(backbone, "weights_saw", None)
    return {
        "cellfeat_version": version("cellfeat"),
        "torch_version": version("torch"),
        "backbone": name,
        "weights_sha256": getattr(backbone, "weights_sha256", None) or "none, or without a digest",
        "weights_saw": "not known" if saw is None else json.dumps(list(saw)),
        "opset": str(OPSET),
        "image_size": str(backbone.image_size),
        "interpolation": backbone.interpolation,
        "colours": "RGB, uint8, normalised inside",
        "outputs": json.dumps(list(outputs)),
        "agreement": json.dumps({**agreement.differences, "mask_pixels": agreement.pixels}),
    }
