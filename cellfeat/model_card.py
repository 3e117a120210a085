"""The model card of a shared folder: README.md with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cellfeat import next_use
from cellfeat.metrics import SCORES
from cellfeat.newcomers import FACT, bound_to
from cellfeat.registry import Registry
from cellfeat.shared_folder import CARD, Shared
from cellfeat.sharing import Wishes

FEATURES = "image-feature-extraction"
TASKS = {"pipeline": "image-classification", "adapter": FEATURES, "method": FEATURES}
TAGS = ("cellfeat", "single-cell", "microscopy", "haematology", "domain-adaptation")
NAMES = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro-F1"}
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "macro_f1": "f1"}  # as the hub calls them


def write_card(shared: Shared, repo: str, wishes: Wishes, registry: Registry) -> None:
    """Write README.md: what it is, how it is used, what it has seen, and its results, in words and for the hub."""
    from importlib.resources import files

    import jinja2

    text = files("cellfeat").joinpath("templates", "model_card.md.jinja").read_text(encoding="utf-8")
    template = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    ).from_string(text)
    base = base_weights(shared, registry)
    card = template.render(
        front=yaml.safe_dump(front_matter(shared, repo, wishes, base), sort_keys=False, allow_unicode=True),
        title=_cell(repo.rpartition("/")[2]),
        what=_what(shared),
        versions=shared.about["versions"],
        kind=shared.kind,
        commands="\n".join(next_commands(shared.about, repo)),
        placed=shared.about.get(FACT),
        bound=_cell(bound_to(shared.about)),
        laboratories=_cell(", ".join(shared.about.get("laboratories", ()))),
        facts=[(name, _cell(value)) for name, value in _facts(shared, base)],
        saw=_saw(shared, base),
        rows=[_row(record) for record in shared.records],
    )
    (shared.folder / CARD).write_text(card, encoding="utf-8")


def front_matter(shared: Shared, repo: str, wishes: Wishes, base: Any = None) -> dict[str, Any]:
    """What the hub reads of a card: library, task, licence, tags, base model, data sets, results."""
    front: dict[str, Any] = {"library_name": "cellfeat", "pipeline_tag": TASKS[shared.kind]}
    front["tags"] = [*TAGS, f"cellfeat-{shared.kind}"]
    if wishes.licence:
        front["license"] = wishes.licence.lower()  # the hub's names are SPDX's in small letters
    model = wishes.base_model or _on_hub(base)
    if model:
        front["base_model"] = model
    if wishes.datasets:
        front["datasets"] = list(wishes.datasets)
    if shared.records:
        front["model-index"] = [{"name": repo.rpartition("/")[2], "results": [_result(one) for one in shared.records]}]
    return front


def next_commands(about: Mapping[str, Any], repo: str, folder: str = "model") -> list[str]:
    """Command lines that fetch what was shared and use it."""
    return [f"cellfeat hub pull {repo} --out {folder}", next_use.of_shared(about, folder)]


def base_weights(shared: Shared, registry: Registry) -> Any:
    """The `NamedWeights` that the folder needs, where a plugin knows them by name; else None."""
    needed = shared.about.get("needs", {})
    for offer in registry.offers:
        if offer.slot == "backbone" and needed.get("backbone", offer.name) == offer.name:
            named = getattr(offer.factory, "named_weights", {})
            if needed.get("weights") in named:
                return named[needed["weights"]]
    return None


def _on_hub(base: Any) -> str | None:
    """ORGANISATION/NAME where the weights' description lies on the hub."""
    address = "https://huggingface.co/"
    card = getattr(base, "card", "")
    return "/".join(card.removeprefix(address).split("/")[:2]) if card.startswith(address) else None


def _what(shared: Shared) -> str:
    if shared.kind == "adapter":
        needed = shared.about["needs"]
        return (
            f"A LoRA adapter and a mask decoder for the Segment Anything weights {_cell(needed['weights'])}: it finds "
            "a single cell in its image and gives the features of the cell. The folder `lora` is in peft's own layout."
        )
    if shared.kind == "pipeline":
        return (
            f"A fitted pipeline that puts single blood cells into {len(shared.about['classes'])} classes: "
            f"{_cell(', '.join(shared.about['classes']))}. Backbone, alignment and classifier are in it or named by it."
        )
    return "A saved alignment method, which makes features of cells from several laboratories agree."


def _facts(shared: Shared, base: Any) -> list[tuple[str, str]]:
    about, needed = shared.about, shared.about.get("needs", {})
    facts = [("Kind", shared.kind)]
    if needed.get("backbone"):
        facts.append(("Backbone", needed["backbone"]))
    if needed.get("weights"):
        licence = f" ({base.licence})" if base is not None and base.licence else ""
        facts.append(("Weights it needs", f"{needed['weights']}{licence}"))
    if needed.get("weights_sha256"):
        facts.append(("SHA-256 of the weights", needed["weights_sha256"]))
    if about.get("method"):
        facts.append(("Method", " → ".join(about["method"])))
    if shared.kind == "adapter" and about.get("images"):
        facts.append(("Images with masks", str(about["images"])))
    return [*facts, ("Made with", ", ".join(f"{name} {one}" for name, one in sorted(about["versions"].items())))]


def _saw(shared: Shared, base: Any) -> str:
    """What weights and fits were shown, as sentences."""
    said = []
    if shared.kind == "adapter":
        seen = shared.about.get("saw") or []
        said.append(f"The adapter was tuned on: {_cell(', '.join(seen)) or 'data that are not named'}.")
        if base is not None:
            known = "not known" if base.saw is None else ", ".join(base.saw) or "nothing"
            said.append(f"The weights below it saw: {_cell(known)}.")
    elif shared.records:
        seen = shared.records[0]["weights_saw"]
        known = "not known" if seen is None else ", ".join(seen) or "no data that are named"
        said.append(f"Pretrained weights and fitted networks saw: {_cell(known)}.")
    if shared.kind == "pipeline":
        names = ", ".join(shared.about["laboratories"])
        said.append(f"Alignment and classifier were fitted on cells of {_cell(names)}.")
    return " ".join(said) or "Not recorded."


def _row(record: Mapping[str, Any]) -> Sequence[str]:
    scores = (_percent(record["scores"][name]) for name in SCORES)
    target = f"{record['target']} (held-out folds)" if record["held_out_folds"] else record["target"]
    majority = _share(record["majority"]["balanced_accuracy"])
    numbers = (record["adapt"], str(record["seed"]), f"{record['cells']:,}")
    return [_cell(one) for one in (target, *numbers, *scores, majority)]


def _percent(score: Mapping[str, Any]) -> str:
    if score.get("low") is None or score.get("high") is None:
        return _share(score["mean"])
    return f"{_share(score['mean'])} ({_share(score['low'])}–{_share(score['high'])})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the hub's model-index."""
    args = {name: record[name] for name in ("adapt", "source", "held_out_folds", "seed")}
    scores = record["scores"]
    return {
        "task": {"type": "image-classification"},
        "dataset": {"type": "single-cell-images", "name": record["target"], "args": args},
        "metrics": [_metric(name, scores[name]) for name in SCORES if scores[name]["mean"] is not None],
    }


def _metric(name: str, score: Mapping[str, Any]) -> dict[str, Any]:
    interval = {"low": score.get("low"), "high": score.get("high")}
    return {"type": METRICS[name], "name": NAMES[name], "value": score["mean"], "args": {"interval_95": interval}}


def _cell(text: str | None) -> str:
    """A text of the data as plain text in Markdown: no table, link or tag comes of it."""
    plain = " ".join((text or "").split())
    return "".join(f"\\{one}" if one in "\\|[]<>*_`" else one for one in plain)
