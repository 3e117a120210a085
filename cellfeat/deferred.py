"""Backbones and segmenters that are built when an image must be encoded, and not where the cache has everything."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellfeat.errors import CellfeatError
from cellfeat.registry import Offer
from cellfeat.slots import Context, EncoderFacts

if TYPE_CHECKING:
    import torch

    from cellfeat.types import Features


class Deferred:
    """Stands for what a factory makes; its facts are known before it is made."""

    def __init__(self, offer: Offer, params: Mapping[str, Any], context: Context) -> None:
        self._offer, self._params, self._context = offer, params, context
        self.facts: EncoderFacts = offer.factory.facts(context=context, **offer.arguments(params))  # type: ignore[attr-defined]
        self.image_size, self.interpolation, self.weights_sha256, self.weights_saw = self.facts

    @functools.cached_property
    def made(self) -> Any:
        """The object itself.

        Raises: CellfeatError where it is not what was said of it.
        """
        product = self._offer.create(self._params, self._context)
        found = facts_of(product)
        if self._offer.slot == "segmenter":
            found = found._replace(image_size=self.facts.image_size, interpolation=self.facts.interpolation)
        for field, said, is_ in zip(EncoderFacts._fields, self.facts, found, strict=True):
            if said != is_:
                raise CellfeatError(
                    f"{self._offer.slot} {self._offer.name!r} of {self._offer.distribution} says by its `facts` that "
                    f"{field} is {said!r}, and has {is_!r}. Were its files changed just now? Else tell the plugin's "
                    "author"
                )
        return product

    def encode(self, images: torch.Tensor) -> Features:
        """As `Backbone.encode`."""
        return self.made.encode(images)

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        """As `Segmenter.segment`."""
        return self.made.segment(images)


def facts_of(product: Any) -> EncoderFacts:
    """What a backbone or a segmenter that is there says of itself."""
    return EncoderFacts(
        getattr(product, "image_size", None),
        getattr(product, "interpolation", None),
        getattr(product, "weights_sha256", None),
        getattr(product, "weights_saw", None),
    )


def deferred(offer: Offer, params: Mapping[str, Any], context: Context) -> Any:
    """The object that a factory makes, later if the factory knows its facts, else now."""
    return Deferred(offer, params, context) if hasattr(offer.factory, "facts") else offer.create(params, context)
