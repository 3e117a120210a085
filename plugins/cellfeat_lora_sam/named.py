"""The weights that `lora-sam` knows by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cellfeat import CellfeatError, NamedWeights

_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_MICRO_SAM = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/"
_META_CARD = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
_LM_SAW = ("SA-1B", "light-microscopy images of micro-sam's generalist: see its model card")

_CELL_TINY_V1 = NamedWeights(
    name="cell-tiny-v1",
    digest="sha256:e592ac541992b4a25b19160ad7df817300cfb7de6fd3dfa799c3374021b9df95",
    path=Path(__file__).parent / "weights" / "cell-tiny-v1.safetensors",
    size_mb=9.1,
    licence="Apache-2.0",
    card="docs/cell-tiny.md",
    saw=("drawn cells", "acevedo20 (images without labels, 1418 left out)"),
)

_ALL = (
    replace(_CELL_TINY_V1, name="cell-tiny"),  # whichever version is the newest; a numbered name never changes
    _CELL_TINY_V1,
    NamedWeights(
        name="vit_b",
        digest="sha256:ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        urls=(f"{_META}sam_vit_b_01ec64.pth",),
        size_mb=375,
        licence="Apache-2.0",
        card=_META_CARD,
        saw=("SA-1B",),
    ),
    NamedWeights(
        name="vit_l",
        digest="sha256:3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        urls=(f"{_META}sam_vit_l_0b3195.pth",),
        size_mb=1250,
        licence="Apache-2.0",
        card=_META_CARD,
        saw=("SA-1B",),
    ),
    NamedWeights(
        name="vit_h",
        digest="sha256:a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        urls=(f"{_META}sam_vit_h_4b8939.pth",),
        size_mb=2560,
        licence="Apache-2.0",
        card=_META_CARD,
        saw=("SA-1B",),
    ),
    NamedWeights(
        name="vit_b_lm",
        digest="xxh128:fe9252a29f3f4ea53c15a06de471e186",
        urls=(f"{_MICRO_SAM}diplomatic-bug/1.2/files/vit_b.pt",),
        size_mb=375,
        licence="see its model card",
        card="https://bioimage.io/#/artifacts/diplomatic-bug",
        saw=_LM_SAW,
    ),
    NamedWeights(
        name="vit_l_lm",
        digest="xxh128:017f20677997d628426dec80a8018f9d",
        urls=(f"{_MICRO_SAM}idealistic-rat/1.2/files/vit_l.pt",),
        size_mb=1250,
        licence="see its model card",
        card="https://bioimage.io/#/artifacts/idealistic-rat",
        saw=_LM_SAW,
    ),
)

_CELL_DETECTOR_V1 = NamedWeights(
    name="cell-detector-v1",
    digest="sha256:bd1b5047663cf83b72a3c49238fce5f3191e89fd831a87414a0e00889a8b7fe6",
    path=Path(__file__).parent / "weights" / "cell-detector-v1.safetensors",
    size_mb=0.34,
    licence="Apache-2.0",
    card="docs/cell-detector.md",
    saw=_CELL_TINY_V1.saw,
)

DETECTOR_WEIGHTS: dict[str, NamedWeights] = {
    weights.name: weights for weights in (replace(_CELL_DETECTOR_V1, name="cell-detector"), _CELL_DETECTOR_V1)
}  # heads on the tokens of cell-tiny, for `cell-detector` alone

NAMED_WEIGHTS: dict[str, NamedWeights] = {weights.name: weights for weights in _ALL}

TINY = "vit_t"  # how names of MobileSAM's network, and of micro-sam's weights for it, begin
TINY_ENCODER = "image_encoder.layers."  # how names of its tensors begin, and no other's


def refuse_tiny(weights: str, tensors: Iterable[str] = ()) -> None:
    """Raise for weights of MobileSAM, by their name or by what is in a file: there is no faithful way to load them."""
    by_name = weights in (TINY, *(f"{TINY}_{kind}" for kind in ("lm", "em_organelles")))
    if by_name or any(name.startswith(TINY_ENCODER) for name in tensors):
        better = weights.replace(TINY, "vit_b") if weights in (TINY, f"{TINY}_lm") else "vit_b_lm"
        raise CellfeatError(
            f"the weights {weights!r} cannot be used: their encoder is MobileSAM's TinyViT, convolutions and windows, "
            "and no plain vision transformer, whose queries and values LoRA adapts; timm's TinyViT is another one, "
            f"which halves the image once more. Take {better}"
        )


def lasting_name(weights: str) -> str:
    """The name that will always mean these weights, as `cell-tiny` means another file when a version is added."""
    named = NAMED_WEIGHTS.get(weights)
    return weights if named is None else [other.name for other in _ALL if other.digest == named.digest][-1]
