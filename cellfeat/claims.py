"""What a record says of its methods, against what these say of themselves when its fit is done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cellfeat import provenance
from cellfeat.extract import Encoder
from cellfeat.pipeline import Pipeline
from cellfeat.recipe import Recipe
from cellfeat.run import plugins_of
from cellfeat.slots import Context
from cellfeat.workplace import Workplace


def claims_here(recipe: Recipe, encoder: Encoder, work: Workplace, context: Context) -> dict[str, Any]:
    """Plugins, declared facts, and what the methods are shown, by the names of a record's fields."""
    pipeline = Pipeline.build(recipe, work.registry, (), context, encoder)
    plugins, facts = plugins_of(recipe, encoder, pipeline, work, context)
    told = json.loads(json.dumps({"plugins": plugins, "plugin_facts": facts}))
    return {**told, "uses_target": pipeline.uses_target, "uses_labels": pipeline.uses_labels}


def false_claims(record: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """What a record says of its methods, and they do not: whose they are, what they may see, what they declare.

    Another version may declare something else, and is remarked on.
    """
    faults = [
        f"{name} is {record[name]}, but its methods say {about[name]}"
        for name in ("uses_target", "uses_labels")
        if record[name] != about[name]
    ]
    for name, made_by in about["plugins"].items():
        written = record["plugins"].get(name, "nobody")
        if written.partition(" ")[0] != made_by.partition(" ")[0]:
            faults.append(f"{name} is by {written}, but here by {made_by}")
        declared = (record.get("plugin_facts") or {}).get(name, {})
        wrong = [key for key, value in about["plugin_facts"][name].items() if declared.get(key, value) != value]
        if wrong and written == made_by:
            faults.append(f"{name} does not declare what its record says: {', '.join(wrong)}")
    return faults


def changed_versions(record: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Versions that are not those of the record: the first place to look where predictions differ."""
    here = provenance.versions()
    others = [f"{name} {version} → {here.get(name, 'absent')}" for name, version in record["versions"].items()]
    changed = [text for text in others if text.split(" ")[1] != text.rpartition(" ")[2]]
    for name, made_by in about["plugins"].items():
        before, now = record["plugins"].get(name, ""), made_by.rpartition(" ")[2]
        if before.rpartition(" ")[2] != now and before.partition(" ")[0] != "cellfeat":
            changed.append(f"{before} → {now}")
    return f"versions: {', '.join(changed)}" if changed else ""


def drawn_anew(about: Mapping[str, Any]) -> str:
    """Methods of which two fits with one seed differ, as they say themselves."""
    declared = about["plugin_facts"]
    names = [f"{name.replace(':', ' ', 1)!r}" for name, facts in declared.items() if not facts["deterministic"]]
    return f"{', '.join(names)} is declared not deterministic: two fits with one seed may differ" if names else ""
