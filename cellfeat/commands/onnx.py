"""`cellfeat onnx`: a backbone as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cellfeat.commands.options import BackboneName, Offline, Sets


def onnx(
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write, which must not exist")],
    backbone: BackboneName = None,
    sets: Sets = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Instead: the backbone of this run folder, or pipeline")
    ] = None,
    offline: Offline = False,
) -> None:
    """Write a backbone as ONNX: encoder, mask and pooled features, checked against the backbone itself.

    The file takes uint8 RGB images (B, 3, S, S) and needs neither cellfeat nor PyTorch. Whether onnxruntime gives the
    same numbers is measured first; a file that does not is not kept.
    """
    from cellfeat.console import console, say
    from cellfeat.onnx_export import OPSET, chosen_part, export
    from cellfeat.workplace import Workplace

    work = Workplace.on_terminal("cpu")
    part = chosen_part(run, backbone, sets or [], work.registry)
    context = work.context(0, "onnx")
    product = work.registry.create("backbone", part.name, part.params, context)
    with context.progress(None, "exporting"):
        agreement = export(product, out, part.name)
    console.print(f"{out}: {part.name}, {product.image_size} px, opset {OPSET}", markup=False, soft_wrap=True)
    console.print(f"agrees with PyTorch: {agreement}", markup=False, soft_wrap=True)
    say("differences are of the largest number of each output, over drawn cells in two batch sizes")
