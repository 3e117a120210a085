"""The DINOv2 networks that have a name here, and where their weights come from."""

from __future__ import annotations

from dataclasses import dataclass

from cellfeat import NamedWeights

_META = "https://dl.fbaipublicfiles.com/dinov2"
_META_CARD = "https://github.com/facebookresearch/dinov2"
_BLOOM_CARD = "https://github.com/marrlab/DinoBloom"
_DINOV2 = "Oquab et al., TMLR 2024, arXiv 2304.07193"
_REGISTERS = "Darcet et al., ICLR 2024, arXiv 2309.16588"
_DINOBLOOM = "Koch et al., MICCAI 2024, arXiv 2404.05022"


@dataclass(frozen=True)
class Dino:
    """model: timm's name of the network. width: D of a token. depth: blocks."""

    name: str
    model: str
    width: int
    depth: int
    weights: NamedWeights
    paper: str

    @property
    def registers(self) -> bool:
        return "_reg" in self.model


_SIZES = {"s": ("small", 384, 12), "b": ("base", 768, 12), "l": ("large", 1024, 24), "g": ("giant", 1536, 40)}

# Meta tells no digests. These SHA-256 are told, for the same addresses, by many public programs that do not know each
# other and pin what they download. For the others none was found: they come from timm's copies on the hub, which has a
# digest of every file.
_META_SHA256 = {
    "s": ("b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88.3),
    "b": ("0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346.4),
    "l": ("d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1217.6),
}
_HUB_MB = {"s": 88.2, "b": 346.3, "l": 1217.5, "g": 4545.9}  # the tensors' own size
# Zenodo's file of s, by the digest that STAMP (Kather lab) compares it with; the authors' copies on the hub hold the
# backbone alone.
_BLOOM_S = (
    "https://zenodo.org/records/10908163/files/DinoBloom-S.pth",
    "sha256:c2f7990b003e89bcece80e379fb8fe0ba2ec392ce19b286e8a294abd99568e44",
)
_BLOOM_MB = {"b": 342.9, "l": 1212.9, "g": 4539.1}


def _dinov2(size: str, registers: bool) -> Dino:
    word, width, depth = _SIZES[size]
    name = f"dinov2-{size}{'-reg' if registers else ''}"
    model = f"vit_{word}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m"
    about = {"licence": "Apache-2.0", "card": _META_CARD, "saw": ("LVD-142M",)}
    if size in _META_SHA256 and not registers:
        sha256, size_mb = _META_SHA256[size]
        file = f"dinov2_vit{size}14"
        urls = (f"{_META}/{file}/{file}_pretrain.pth",)
        weights = NamedWeights(name, f"sha256:{sha256}", urls, size_mb=size_mb, **about)  # type: ignore[arg-type]
    else:
        hub = f"timm/{model}/model.safetensors"
        weights = NamedWeights(name, hub=hub, size_mb=_HUB_MB[size], **about)  # type: ignore[arg-type]
    return Dino(name, model, width, depth, weights, f"{_DINOV2}; {_REGISTERS}" if registers else _DINOV2)


def _dinobloom(size: str) -> Dino:
    """saw is not known: the authors count 13 public sets of blood and bone marrow, and list them in the paper alone."""
    word, width, depth = _SIZES[size]
    name = f"dinobloom-{size}"
    about = {"licence": "Apache-2.0", "card": _BLOOM_CARD, "saw": None}
    if size == "s":
        url, digest = _BLOOM_S
        weights = NamedWeights(name, digest, (url,), **about)  # type: ignore[arg-type]
    else:
        hub = f"MarrLab/DinoBloom/pytorch_model_{size}.bin"
        weights = NamedWeights(name, hub=hub, size_mb=_BLOOM_MB[size], **about)  # type: ignore[arg-type]
    return Dino(name, f"vit_{word}_patch14_dinov2.lvd142m", width, depth, weights, _DINOBLOOM)


_ALL = (
    *(_dinov2(size, registers) for registers in (False, True) for size in _SIZES),
    *(_dinobloom(size) for size in _SIZES),
)
DINOS: dict[str, Dino] = {dino.name: dino for dino in _ALL}
