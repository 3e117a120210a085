"""Plain sentences on what a batch of cells has that the training cells have not, and on what may help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cellfeat.batch_shift import FEATURES, Batch, Learnt, Shift

SURE = 1e-3  # so seldom as many novel images come by chance that it is worth a remark
LEAST_NOVEL = 3
MANY = 0.25  # of the lone cells of photographs; of those of the laboratory learnt from fewer are novel
LIGHT = ("background_lightness", "background_redness", "background_yellowness")
STAIN = ("nucleus_density", "cytoplasm_density", "stain_blueness")
DETAIL = ("sharpness", "noise", "blockiness", "pixels")
RATIOS = ("sharpness", "blockiness", "pixels")  # measured as log2
WORSE = {"sharpness": -1, "pixels": -1, "noise": 1, "blockiness": 1}  # the side on which detail is lost


class Words(NamedTuple):
    """What is said below and above of what was learnt ("": nothing), the figure's name, and how it is written."""

    below: str
    above: str
    figure: str
    form: str


WORDS = {
    "background_lightness": Words("darker", "brighter", "lightness", "{:.0f} of 100"),
    "background_redness": Words("greener", "pinker", "a*", "{:.0f}"),
    "background_yellowness": Words("bluer", "yellower", "b*", "{:.0f}"),
    "nucleus_density": Words("paler in the nucleus", "darker in the nucleus", "optical density", "{:.2f}"),
    "cytoplasm_density": Words("paler in the cytoplasm", "darker in the cytoplasm", "optical density", "{:.2f}"),
    "stain_blueness": Words("pinker", "bluer", "red light's share of the density", "{:.2f}"),
    "contrast": Words("less", "more", "spread of lightness", "{:.0f} of 100"),
    "sharpness": Words("blurrier", "sharper", "fine against coarse detail", "{:.2f}"),
    "noise": Words("smoother", "noisier", "noise in grey levels", "{:.1f}"),
    "blockiness": Words("", "more strongly compressed", "steps between JPEG blocks", "{:.2f}"),
    "pixels": Words("smaller", "larger", "side in px", "{:.0f}"),
}


@dataclass(frozen=True)
class Remedies:
    """What can be done with this pipeline. refit: its methods adapt, and were not yet adapted to these images.
    refitted: they were. normalises: a method of it writes images, as stain normalisation does."""

    refit: bool = False
    refitted: bool = False
    normalises: bool = False


def remarks(batch: Batch, learnt: Learnt, remedies: Remedies) -> tuple[str, ...]:
    """Sentences, each by itself; none where the batch is as the laboratories learnt from."""
    many = _many(batch)
    shifts = learnt.shifts(batch, by_fields=not many)
    said = [*_light(shifts, learnt), *_stain(shifts), *_detail(shifts), *_size(shifts)]
    if not said and not many and FEATURES not in shifts:
        return ()
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
    if batch.fields is not None:  # cells of one photograph are alike: no chance can be worked out
        return batch.novel > MANY * len(batch)
    return bool(binom.sf(batch.novel - 1, len(batch), min(1.0, 2 * batch.false_alarm)) < SURE)


def _count(batch: Batch) -> str:
    share = f"{100 * batch.novel / len(batch):.0f} %"
    if batch.fields is not None:
        return f"{batch.novel:,} of {len(batch):,} whole cells that touch no other ({share}) are"
    return f"{batch.novel:,} of {len(batch):,} images ({share}; {100 * batch.false_alarm:.1g} % would be by chance) are"


def _light(shifts: Mapping[str, Shift], learnt: Learnt) -> Iterator[str]:
    found = [_told(name, shifts[name]) for name in LIGHT if name in shifts]
    if found:
        every = "every laboratory" if len(learnt.domains) > 1 else "the laboratory"
        yield f"The background is {_listed(found)} than in {every} learnt from: {_named(learnt.domains)}"


def _stain(shifts: Mapping[str, Shift]) -> Iterator[str]:
    found = [_told(name, shifts[name]) for name in STAIN if name in shifts]
    if found:
        yield f"The cells are stained {_listed(found)}"
    elif "contrast" in shifts and not any(name in shifts for name in LIGHT):
        word, figures = _told("contrast", shifts["contrast"]).split(" ", 1)
        yield f"The images have {word} contrast {figures}"


def _detail(shifts: Mapping[str, Shift]) -> Iterator[str]:
    found = [_told(name, shifts[name]) for name in DETAIL if name in shifts and _word(name, shifts[name])]
    if found:
        yield f"The images are {_listed(found)}"


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
            "Light, stain, sharpness and size are as learnt, but the backbone's features are not: these may be kinds "
            "of cells that were not learnt from, or no cells"
        )
    return "The middle of the images is as learnt in light, stain, sharpness and size: look at the novel ones"


def _advice(shifts: Mapping[str, Shift], remedies: Remedies) -> str:
    stained = any(name in shifts for name in (*LIGHT, *STAIN, "contrast"))
    said = ["--refit, which adapts to these images"] if remedies.refit else []
    if stained and not remedies.normalises:
        said.append("stain normalisation (a run with --align reinhard,… or macenko,…)")
    if "cell_share" in shifts:
        low, high = shifts["cell_share"].low, shifts["cell_share"].high
        said.append(f"crops in which a cell takes {50 * (low + high):.0f} % of the side (smear: --cell-size)")
    if any(name in shifts and shifts[name].beyond * side > 0 for name, side in WORSE.items()):
        said.append("photographs with as much detail as those learnt from")
    said.append("a run that learns from more laboratories, or from labelled cells of this one")
    return f"What may help: {'; '.join(said)}"


def _word(name: str, shift: Shift) -> str:
    return WORDS[name].above if shift.beyond > 0 else WORDS[name].below


def _told(name: str, shift: Shift) -> str:
    """As "yellower (b* 21, learnt from 4 to 9)"."""
    words = WORDS[name]
    texts = [words.form.format(2**one if name in RATIOS else one) for one in shift[:3]]
    value, low, high = (texts[0], texts[1].removesuffix(" of 100"), texts[2].removesuffix(" of 100"))
    return f"{_word(name, shift)} ({words.figure} {value}, learnt from {low if low == high else f'{low} to {high}'})"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _named(domains: Sequence[str]) -> str:
    return ", ".join(domains) if len(domains) <= 4 else f"{len(domains)} of them"
