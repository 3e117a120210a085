"""A plan in words, and its data as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cellfeat import machine
from cellfeat.plan import Plan, Probe
from cellfeat.store import cache_folder

if TYPE_CHECKING:
    from rich.table import Table

    from cellfeat.datasets import Dataset


def data_table(dataset: Dataset) -> Table:
    """Cells by laboratory and class."""
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in dataset.domains:
        table.add_column(name, justify="right")
    members = [dataset.label[dataset.domain == name] for name in dataset.domains]
    for number, name in enumerate(dataset.classes):
        table.add_row(name, *(f"{np.sum(labels == number):,}" for labels in members))
    table.add_section()
    table.add_row("cells", *(f"{len(labels):,}" for labels in members))
    return table


def lines(plan: Plan) -> list[str]:
    """The plan in words; the data are a table of their own."""
    protocol, unknown = plan.recipe.protocol, f"not known: {'; '.join(plan.unknown)}"
    method = [plan.recipe.backbone.name, *(one.name for one in plan.recipe.align)]
    method.append(plan.recipe.classifier.name if plan.recipe.classifier else "own head")
    seeds = f"{len(protocol.seeds)} seed{'s' if len(protocol.seeds) > 1 else ''}"
    saved = f"{plan.pipelines} pipelines are saved"
    said = [
        f"data: {plan.dataset.source}, {len(plan.dataset):,} cells",
        f"method: {' · '.join(method)}",
        f"protocol: {protocol.name}, adapt {protocol.adapt}, {protocol.folds} folds, {seeds}",
        f"fits: {plan.fits} of the methods in {plan.splits} splits; {saved}. Their time is not known before the first",
    ]
    for one in plan.to_fetch:
        said.append(f"to fetch first: {one.name}, {one.size_mb:,.0f} MB ({one.licence or 'licence not told'})")
    if plan.encoded is None:
        return [*said, f"images: {plan.images:,}; how many are encoded already is {unknown}"]
    said.append(f"images: {plan.encoded:,} of {plan.images:,} are encoded already, {plan.missing:,} would be")
    if plan.probe is not None:
        said += _of_probe(plan, plan.probe)
    if any(name in ("reinhard", "macenko") for name in method):
        said.append("what a method paints is encoded for each fit too, which is not counted here")
    return said


def _of_probe(plan: Plan, probe: Probe) -> list[str]:
    basis = f"measured now on {probe.images} images, {1000 * probe.seconds:.0f} ms each"
    columns = ", ".join(f"{name} {machine.told(count)}" for name, count in probe.row_bytes.items())
    said = [
        f"encoding: about {_duration(plan.encoding_seconds or 0)} ({basis})",
        f"cache: {machine.told(plan.store_bytes or 0)} more (per image: {columns}), "
        f"{machine.told(machine.free_disk(cache_folder()))} free",
    ]
    if probe.peak is not None:
        free = machine.free_memory()
        left = "" if free is None else f", {machine.told(free)} free"
        said.append(f"memory: {machine.told(probe.peak)} while encoding (measured){left}; of the fits not known")
    return said


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
