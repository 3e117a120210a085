"""What timm knows of a model by its name, and what a repository of the hub says of one in timm's layout."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cellfeat import CellfeatError, NamedWeights, find_weights

HUB, HUB_CONFIG = "hf-hub:", "config.json"
PROPOSALS = re.compile(r"\.? (?=Fetch them where|A file fetched by)")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Known(NamedTuple):
    """A model: timm's name of its network, its configuration, and arguments of the network's own."""

    architecture: str
    config: Any
    arguments: dict[str, Any]


def published_config(model: str) -> Any:
    """timm's configuration of a model; an unknown name is refused with the nearest ones."""
    return known_model(model).config


@cache
def known_model(model: str) -> Known:
    """What timm knows of a name; of `hf-hub:owner/name`, what that repository's config.json says."""
    return _of_hub(model) if model.startswith(HUB) else Known(model, _of_timm(model), {})


def reason_of(error: CellfeatError) -> str:
    """What kept weights from being found, in one line, without the proposals of those who looked for them."""
    return PROPOSALS.split(" ".join(str(error).split()).rpartition(" are not to be had: ")[2])[0]


def hub_file(place: str) -> Path:
    """A file "owner/name/file" of the hub, found as named weights are."""
    return find_weights(place, {place: NamedWeights(place, hub=place)})


def _of_timm(model: str) -> Any:
    import timm

    bare, _, _ = model.partition(".")
    tagged = timm.list_pretrained(f"{bare}.*") if timm.is_model(bare) else []
    if timm.is_model(bare) and (model == bare or model in tagged):
        return timm.get_pretrained_cfg(model)
    known = [*timm.list_models(), *tagged]
    near = get_close_matches(model, known, n=2, cutoff=0.6)
    guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise CellfeatError(
        f"timm has no model named {model!r}.{guess} timm.list_models() names all {len(timm.list_models())}; "
        f"{HUB}owner/name takes one of the Hugging Face hub"
    )


def _of_hub(model: str) -> Known:
    """Only the names of networks and numbers are taken from the file; no code of the repository is run."""
    import timm

    repository = model.removeprefix(HUB)
    if not REPOSITORY.fullmatch(repository):
        raise CellfeatError(f"{model!r} is no repository of the hub; write it as {HUB}owner/name")
    try:
        file = hub_file(f"{repository}/{HUB_CONFIG}")
    except CellfeatError as error:
        raise CellfeatError(
            f"the model {model} cannot be looked up: {reason_of(error)}. Run this once on a machine with network, or "
            "take a model that timm knows"
        ) from error
    try:
        found = _read(file, repository)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CellfeatError(f"{file} is no configuration of timm ({type(error).__name__}: {error})") from error
    if not timm.is_model(found.architecture):
        raise CellfeatError(
            f"the network of {model} is {found.architecture!r}, which timm {timm.__version__} does not have"
        )
    return found


def _read(file: Path, repository: str) -> Known:
    """timm's config.json: also the older kind, in which everything lies side by side."""
    import json

    from timm.models import PretrainedCfg

    content = json.loads(file.read_text(encoding="utf-8"))
    said = dict(content.get("pretrained_cfg", content))
    fields = {key: value for key, value in said.items() if key in PretrainedCfg.__dataclass_fields__}
    for key in ("input_size", "mean", "std"):
        if key in fields:
            fields[key] = tuple(fields[key])
    fields |= {"hf_hub_id": repository, "source": None, "file": None, "url": ""}
    if "num_classes" in content:
        fields["num_classes"] = content["num_classes"]
    return Known(str(content["architecture"]), PretrainedCfg(**fields), dict(content.get("model_args") or {}))
