"""Plain sentences on what a batch of cells has that the training cells have not, and on what may help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cellfeat.batch_shift import FEATURES, Batch, Learnt, Shift

SURE = 1e-3  # so seldom as many novel images come by chance that it is worth a remark
LEAST_NOVEL = 3
LIGHT, STAIN = (
    ("background_lightness", "background_redness", "background_yellowness"),
    (
        "nucleus_density",
        "cytoplasm_density",
        "stain_blueness",
    ),
)
DETAIL = ("sharpness", "noise", "blockiness", "pixels")
# (below, above) what was learnt, the figure's name, and how it is written
WORDS: dict[str, tuple[str, str, str, str]] = {
    "background_lightness": ("darker", "brighter", "lightness", "{:.0f}"),
    "background_redness": ("greener", "pinker", "a*", "{:.0f}"),
    "background_yellowness": ("bluer", "yellower", "b*", "{:.0f}"),
    "nucleus_density": ("paler in the nucleus", "darker in the nucleus", "optical density", "{:.2f}"),
    "cytoplasm_density": ("paler in the cytoplasm", "darker in the cytoplasm", "optical density", "{:.2f}"),
    "stain_blueness": ("pinker", "bluer", "share of red light absorbed", "{:.2f}"),
    "contrast": ("less", "more", "5th to 95th percentile of lightness", "{:.0f}"),
    "sharpness": ("blurrier", "sharper", "fine against coarse detail", "{:.2f}"),
    "noise": ("smoother", "noisier", "grey levels of 255", "{:.1f}"),
    "blockiness": ("", "more strongly compressed", "steps between JPEG blocks", "{:.2f}"),
    "pixels": ("of fewer pixels", "of more pixels", "side in px", "{:.0f}"),
}
RATIOS = ("sharpness", "blockiness", "pixels")  # measured as log2


@dataclass(frozen=True)
class Remedies:
    """What can be done with this pipeline. refit: its methods adapt, and were not yet adapted to these images.
    refitted: they were. normalises: a method of it writes images, as stain normalisation does."""

    refit: bool = False
    refitted: bool = False
    normalises: bool = False


def remarks(batch: Batch, learnt: Learnt, remedies: Remedies) -> tuple[str, ...]:
    """Sentences, each by itself; none where the batch is as the laboratories learnt from."""
    shifts = learnt.shifts(batch)
    many = _many(batch)
    if not many and not set(shifts) - {FEATURES} and FEATURES not in shifts:
        return ()
    said = [*_light(shifts, learnt), *_stain(shifts), *_detail(shifts), *_size(shifts)]
    if not said:
        said = [_features_alone(shifts, many)]
    first = [f"{_count(batch)} unlike the cells learnt from"] if many else []
    if remedies.refitted:
        first.append("The methods were adapted to these images; what follows is how they differ from the source")
    return (*first, *said, _advice(shifts, remedies))


def _many(batch: Batch) -> bool:
    """Whether more images are novel than chance makes of images like the training ones."""
    from scipy.stats import binom

    if batch.novel < LEAST_NOVEL:
        return False
    return bool(binom.sf(batch.novel - 1, len(batch), min(1.0, 2 * batch.false_alarm)) < SURE)


def _count(batch: Batch) -> str:
    share = f"{100 * batch.novel / len(batch):.0f} %"
    return f"{batch.novel:,} of {len(batch):,} images ({share}; {100 * batch.false_alarm:.1g} % would be by chance) are"


def _light(shifts: Mapping[str, Shift], learnt: Learnt) -> Iterator[str]:
    found = [name for name in LIGHT if name in shifts]
    if found:
        every = "every laboratory" if len(learnt.domains) > 1 else "the laboratory"
        than = f"than in {every} learnt from ({_named(learnt.domains)})"
        yield f"The background is {_listed([_word(name, shifts[name]) for name in found])} {than}: {_told(found, shifts)}"


def _stain(shifts: Mapping[str, Shift]) -> Iterator[str]:
    found = [name for name in STAIN if name in shifts]
    if found:
        yield f"The cells are stained {_listed([_word(name, shifts[name]) for name in found])}: {_told(found, shifts)}"
    elif "contrast" in shifts and not any(name in shifts for name in LIGHT):
        yield f"The images have {_word('contrast', shifts['contrast'])} contrast: {_told(['contrast'], shifts)}"


def _detail(shifts: Mapping[str, Shift]) -> Iterator[str]:
    found = [name for name in DETAIL if name in shifts and _word(name, shifts[name])]
    if found:
        yield f"The images are {_listed([_word(name, shifts[name]) for name in found])}: {_told(found, shifts)}"


def _size(shifts: Mapping[str, Shift]) -> Iterator[str]:
    if "cell_share" in shifts:
        value, low, high, beyond = shifts["cell_share"]
        yield (
            f"The cells look {'larger' if beyond > 0 else 'smaller'}: {100 * value:.0f} % of the image's side, learnt "
            f"from {100 * low:.0f} % to {100 * high:.0f} %"
        )


def _features_alone(shifts: Mapping[str, Shift], many: bool) -> str:
    if FEATURES in shifts or not many:
        return (
            "Light, stain, sharpness and size are as learnt, but the backbone's features are not: these may be kinds of "
            "cells that were not learnt from, or no cells"
        )
    return "As a whole the images are as learnt: look at those that are novel, each by itself"


def _advice(shifts: Mapping[str, Shift], remedies: Remedies) -> str:
    stained = any(name in shifts for name in (*LIGHT, *STAIN, "contrast"))
    said = ["--refit, which adapts to these images"] if remedies.refit else []
    if stained and not remedies.normalises:
        said.append("stain normalisation (a run with --align reinhard,… or macenko,…)")
    if "cell_share" in shifts:
        low, high = shifts["cell_share"].low, shifts["cell_share"].high
        said.append(f"crops in which a cell takes {50 * (low + high):.0f} % of the side (smear: --cell-size)")
    if any(name in shifts for name in DETAIL):
        said.append("photographs as sharp and large as those learnt from")
    said.append("a run that learns from more laboratories, or from labelled cells of this one")
    return f"What may help: {'; '.join(said)}"


def _word(name: str, shift: Shift) -> str:
    return WORDS[name][1 if shift.beyond > 0 else 0]


def _told(names: Sequence[str], shifts: Mapping[str, Shift]) -> str:
    parts = []
    for name in names:
        figure, form = WORDS[name][2:]
        values = [2**one if name in RATIOS else one for one in shifts[name][:3]]
        value, low, high = (form.format(one) for one in values)
        parts.append(f"{figure} {value}, learnt from {low if low == high else f'{low} to {high}'}")
    return "; ".join(parts)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _named(domains: Sequence[str]) -> str:
    return ", ".join(domains) if len(domains) <= 4 else f"{len(domains)} of them"
