"""Cells that a fit is tried on: with labels that are to be hidden, with other roles, and such as are hard to fit on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cellfeat.types import ArrayColumn, Cells

OUTSIDE = 128  # grey of a crop outside the cell, and of all of it where there is no cell


def with_hidden_labels(cells: Cells) -> Cells:
    """The cells with a label for every row, as a run has them."""
    drawn = np.random.default_rng(2).integers(0, max(cells.label.max() + 1, 2), len(cells))
    return replace(cells, label=np.where(cells.label < 0, drawn, cells.label))


def with_other_labels(cells: Cells) -> Cells:
    """The cells with another one of their labels in every row."""
    return replace(cells, label=(cells.label + 1) % (cells.label.max() + 1))


def with_other_roles(cells: Cells) -> Cells:
    """The first target domain as the source, with labels, and the source as a target."""
    targets = sorted(set(cells.domain[cells.is_target].tolist()))
    named = with_hidden_labels(cells)
    return named.with_target(cells.domain != targets[0]) if targets else with_other_labels(named)


def of_one_domain(cells: Cells) -> Cells:
    """The source alone."""
    return cells[~cells.is_target]


def of_two_sources(cells: Cells) -> Cells:
    """The source and the first target domain as sources, with labels."""
    first = min(cells.domain[cells.is_target].tolist(), default="")
    return with_hidden_labels(cells).with_target(cells.is_target & (cells.domain != first))


def of_one_class(cells: Cells) -> Cells:
    """The source cells of the first class, and all target cells."""
    return cells[cells.is_target | (cells.label == 0)]


def with_a_lone_cell(cells: Cells) -> Cells:
    """The source, and one cell of the target."""
    return cells[np.append(np.flatnonzero(~cells.is_target), cells.is_target.argmax())]


def with_empty_masks(cells: Cells) -> Cells:
    """The cells with an empty mask, and a crop without a cell, in one of every domain."""
    rows = np.unique(cells.domain, return_index=True)[1]
    for name, value in (("mask", False), ("crop", OUTSIDE)):
        if name in cells.columns:
            values = cells.read(name)
            values[rows] = value
            cells = cells.with_column(name, ArrayColumn(values))
    return cells
