"""Contract checks for authors of plugins: each raises AssertionError with what is wrong.

    from cellfeat.testing import check_align


    def test_contract(tmp_path):
        check_align(MyMethod, tmp_path)

A factory that asks for `context` is handed a CPU context, as in a run.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellfeat.artifacts import load_estimator, save_estimator
from cellfeat.console import SilentReporter
from cellfeat.errors import UnseenDomainError
from cellfeat.slots import MEMBERS, Context
from cellfeat.types import UNLABELED, Cells, Features

if TYPE_CHECKING:
    import torch

CLASSES, DOMAINS = 3, ("here", "there", "elsewhere")
PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")


def cpu_context(scratch: Path, seed: int = 0) -> Context:
    """A float32 CPU context that shows nothing; its notes are in `context.reporter.notes`."""
    import torch

    scratch.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    return Context(torch.device("cpu"), torch.float32, generator, scratch, SilentReporter())


def toy_cells(per_class: int = 4, size: int = 32, channels: int = 8, grid: int = 14, seed: int = 0) -> Cells:
    """Three domains × three classes with every column; classes differ, domains are shifted and scaled.

    The second and third domain are targets; their labels are hidden. image (N, 3, size, size), map (N, channels,
    grid, grid), pooled (N, channels), crop (N, 3, 128, 128), mask (N, size, size).
    """
    rng = np.random.default_rng(seed)
    domain = np.repeat(DOMAINS, CLASSES * per_class)
    label = np.tile(np.repeat(np.arange(CLASSES), per_class), len(DOMAINS))
    n = len(label)
    shift = np.searchsorted(np.unique(domain), domain)
    centre = rng.normal(size=(CLASSES, channels))[label] + shift[:, None]
    token_map = centre[:, :, None, None] + 0.3 * rng.normal(size=(n, channels, grid, grid))
    colour = (60 + 60 * label + 20 * shift)[:, None, None, None]
    noise = rng.integers(-15, 16, size=(n, 3, size, size))
    ys, xs = np.mgrid[:size, :size] - size / 2 + 0.5
    mask = np.broadcast_to(np.hypot(ys, xs) < size / 3, (n, size, size))
    crop = rng.integers(0, 256, size=(n, 3, 128, 128), dtype=np.uint8) // 8 + colour.astype(np.uint8)
    target = domain != DOMAINS[0]
    return Cells.from_arrays(
        np.where(target, UNLABELED, label),
        domain=domain,
        is_target=target,
        image=np.where(mask[:, None], np.clip(colour + noise, 0, 255), 230).astype(np.uint8),
        mask=mask,
        map=token_map.astype(np.float32),
        pooled=token_map.mean((2, 3)).astype(np.float32),
        crop=crop,
    )


def toy_images(count: int = 3, size: int = 224, seed: int = 0) -> torch.Tensor:
    """(count, 3, size, size) uint8 RGB: a dark disc on a light ground, with noise."""
    import torch

    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:size, :size] - size / 2
    radius = size * rng.uniform(0.15, 0.3, size=(count, 1, 1, 1))
    images = np.where(np.hypot(ys, xs) < radius, 90.0, 220.0) * np.ones((1, 3, 1, 1))
    return torch.from_numpy(np.clip(images + rng.normal(scale=8, size=images.shape), 0, 255).astype(np.uint8))


def _made(slot: str, factory: Callable[..., Any], params: dict[str, Any], scratch: Path | None = None) -> Any:
    """The factory's product, with every member that its slot asks for."""
    if "context" in inspect.signature(factory).parameters and "context" not in params:
        params = {**params, "context": cpu_context(scratch or Path(tempfile.mkdtemp(prefix="cellfeat-")))}
    product = factory(**params)
    missing = [member for member in MEMBERS[slot] if not hasattr(product, member)]
    assert not missing, f"the {slot} lacks {', '.join(missing)}; it needs {', '.join(MEMBERS[slot])}"
    return product


def check_align(factory: Callable[..., Any], folder: Path, cells: Cells | None = None, **params: Any) -> Any:
    """Check an alignment method on toy cells; gives the fitted method.

    Shape, dtype and finite values; row order; determinism; blindness to all labels in use, and in fit unless
    `uses_labels` (which of them such a method is shown is the protocol's affair); inputs left as they were; one row;
    an unseen domain placed or refused by `UnseenDomainError`; the optional members, where it has them; the same
    answers after save and load.
    """
    cells = toy_cells() if cells is None else cells
    method = _made("align", factory, params, folder / "made")
    _check_declaration(method, cells)
    cells = replace(cells, columns={name: cells.columns[name] for name in method.reads})
    before = {name: cells.read(name) for name in method.reads}
    fit_on = cells if method.uses_target else cells[~cells.is_target]
    if not method.uses_labels:
        fit_on = fit_on.hide_labels()  # as in a run

    def fitted(data: Cells, name: str) -> Any:
        fresh = _made("align", factory, params, folder / name)
        return fresh.fit(data, cpu_context(folder / name)) or fresh

    method = fitted(fit_on, "first")
    seen = fit_on.hide_labels()
    context = cpu_context(folder / "use")
    answer = method.transform(seen, context)
    _check_answer(answer, seen, method.writes)
    again = fitted(fit_on, "second").transform(seen, context)
    np.testing.assert_array_equal(answer, again, "two fits with one seed differ: draw from context.generator only")
    order = np.random.default_rng(0).permutation(len(seen))
    _close(method.transform(seen[order], context), answer[order], "rows are not answered in the order they came")
    _close(method.transform(seen[:1], context), answer[:1], "one row alone is answered differently")
    _check_blindness(fitted, fit_on, seen, method, answer, context)
    _check_unseen(method, seen, context)
    _check_optional(method, len(np.unique(cells.label[cells.label >= 0])), seen, context)
    _check_saving(method, folder / "saved", seen, answer, context)
    for name, values in before.items():
        np.testing.assert_array_equal(cells.read(name), values, f"the column {name} was changed")
    return method


def _check_declaration(method: Any, cells: Cells) -> None:
    assert isinstance(method.reads, tuple), f"reads must be a tuple of column names, not {method.reads!r}"
    unknown = [name for name in method.reads if name not in cells.columns]
    assert not unknown, f"reads names {', '.join(map(str, unknown))}; there are {', '.join(cells.columns)}"
    assert method.writes in ("pooled", "image"), f"writes must be 'pooled' or 'image', not {method.writes!r}"
    for flag in ("uses_target", "uses_labels"):
        value = getattr(method, flag)
        assert isinstance(value, bool), f"{flag} must be True or False, not {value!r}"


def _check_answer(answer: Any, cells: Cells, writes: str) -> None:
    assert isinstance(answer, np.ndarray), f"transform must give a NumPy array, not {type(answer).__name__}"
    dtype = np.float32 if writes == "pooled" else np.uint8
    assert answer.dtype == dtype, f"transform must give {dtype.__name__}, not {answer.dtype}"
    assert len(answer) == len(cells), f"{len(cells)} cells went in, {len(answer)} rows came out"
    if writes == "image":
        shape = cells.column("image").shape
        assert answer.shape == shape, f"transform gave images of the shape {answer.shape}, not {shape}"
    assert answer.ndim == (2 if writes == "pooled" else 4), f"transform gave the shape {answer.shape}"
    assert np.isfinite(answer).all(), "transform gave NaN or infinite values"


def _close(got: np.ndarray, wanted: np.ndarray, message: str) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=message)


def _check_blindness(
    fitted: Callable[[Cells, str], Any],
    fit_on: Cells,
    seen: Cells,
    method: Any,
    answer: np.ndarray,
    context: Context,
) -> None:
    """Labels that a method must not look at are filled in at random under it.

    A label of a target row in fit is one that a few-shot protocol has revealed: a method that uses labels may use it.
    """
    rng = np.random.default_rng(1)
    named = replace(seen, label=rng.integers(0, CLASSES, len(seen)))
    np.testing.assert_array_equal(method.transform(named, context), answer, "transform looks at labels")
    if method.uses_labels:
        return
    label = rng.integers(0, CLASSES, len(fit_on))
    other = fitted(replace(fit_on, label=label), "blind").transform(seen, context)
    np.testing.assert_array_equal(other, answer, "labels that should not matter changed the answer")


def _check_unseen(method: Any, cells: Cells, context: Context) -> None:
    stranger = replace(cells[:2], domain=np.array(["never-seen"] * 2))
    try:
        answer = method.transform(stranger, context)
    except UnseenDomainError:
        return
    except Exception as error:
        kind = type(error).__name__
        raise AssertionError(f"an unseen domain must be placed or refused by UnseenDomainError, not {kind}") from error
    _check_answer(answer, stranger, method.writes)


def _check_saving(method: Any, folder: Path, seen: Cells, answer: np.ndarray, context: Context) -> None:
    folder.mkdir()
    method.save(folder)
    pickles = [path.name for path in folder.rglob("*") if path.suffix in PICKLES]
    assert not pickles, f"{', '.join(pickles)}: a pickle was saved; use safetensors, JSON or skops"
    loaded = type(method).load(folder)
    _close(loaded.transform(seen, context), answer, "a loaded copy answers differently")
    if hasattr(method, "predict_proba"):
        before = method.predict_proba(seen, context)
        _close(loaded.predict_proba(seen, context), before, "a loaded copy gives other probabilities")


def _check_optional(method: Any, n_classes: int, seen: Cells, context: Context) -> None:
    """`predict_proba`, `sample_weight` and `adjust`, where a method has them."""
    if hasattr(method, "predict_proba"):
        _check_proba("predict_proba", method.predict_proba(seen, context), (len(seen), n_classes))
    if hasattr(method, "adjust"):
        even = np.full((len(seen), n_classes), 1 / n_classes)
        _check_proba("adjust", method.adjust(even.copy(), seen), even.shape)
    if hasattr(method, "sample_weight"):
        source = seen[~seen.is_target]
        weight = np.asarray(method.sample_weight(source), float)
        assert weight.shape == (len(source),), f"sample_weight gave {weight.shape} for {len(source)} cells"
        assert np.isfinite(weight).all(), "sample_weight gave NaN or infinite weights"
        assert weight.min() >= 0, "sample_weight gave negative weights"


def _check_proba(what: str, proba: Any, shape: tuple[int, ...]) -> None:
    assert np.shape(proba) == shape, f"{what} gave {np.shape(proba)}, must be (cells, classes) = {shape}"
    assert np.min(proba) >= 0, f"{what} gave negative probabilities"
    assert np.allclose(np.sum(proba, axis=1), 1, atol=1e-4), f"the rows of {what} do not sum to 1"


def check_backbone(factory: Callable[..., Any], **params: Any) -> Any:
    """Check a backbone on toy images: shapes, finite values, determinism, inputs untouched, no batch effect."""
    import torch

    from cellfeat.images import INTERPOLATIONS

    backbone = _made("backbone", factory, params)
    size, interpolation = backbone.image_size, backbone.interpolation
    assert interpolation in INTERPOLATIONS, f"interpolation is {interpolation!r}, not of {', '.join(INTERPOLATIONS)}"
    images = toy_images(3, size)
    before = images.clone()
    with torch.inference_mode():
        features = backbone.encode(images)
        again = backbone.encode(images)
        alone = backbone.encode(images[:1])
    assert torch.equal(images, before), "encode changed its input"
    assert isinstance(features, Features), f"encode must give Features, not {type(features).__name__}"
    assert features.embedding.dim() in (2, 4), f"embedding has the shape {tuple(features.embedding.shape)}"
    for name, value in features._asdict().items():
        if value is None:
            continue
        assert len(value) == 3, f"{name} has {len(value)} rows for 3 images"
        if name == "mask":
            assert value.dtype == torch.bool, f"mask has dtype {value.dtype}, must be bool"
            assert tuple(value.shape[1:]) == (size, size), f"mask has the shape {tuple(value.shape)}"
        else:
            assert value.is_floating_point(), f"{name} has dtype {value.dtype}, must be floating"
            assert torch.isfinite(value).all(), f"{name} has NaN or infinite values"
            if name == "quality":
                assert value.dim() == 1, f"quality has the shape {tuple(value.shape)}, must be (images,)"
                assert torch.equal(value, value.clamp(0, 1)), "quality has values outside 0..1"
            first = getattr(alone, name)
            assert torch.allclose(first, value[:1], rtol=1e-4, atol=1e-4), f"{name} depends on the rest of the batch"
        assert torch.equal(value, getattr(again, name)), f"{name} differs between two calls"
    return backbone


def check_segmenter(factory: Callable[..., Any], size: int = 224, **params: Any) -> Any:
    """Check a segmenter: (B, S, S) bool, deterministic, inputs untouched, blank images too."""
    import torch

    segmenter = _made("segmenter", factory, params)
    images = torch.cat([toy_images(2, size), torch.full((1, 3, size, size), 230, dtype=torch.uint8)])
    before = images.clone()
    mask = segmenter.segment(images)
    assert torch.equal(images, before), "segment changed its input"
    assert mask.dtype == torch.bool, f"the mask has dtype {mask.dtype}, must be bool"
    assert tuple(mask.shape) == (3, size, size), f"the mask has the shape {tuple(mask.shape)}"
    assert torch.equal(mask, segmenter.segment(images)), "two calls differ"
    return segmenter


def check_classifier(factory: Callable[..., Any], **params: Any) -> Any:
    """Check a classifier: learns separable classes 0..K-1, is deterministic, answers one row, survives skops.

    Types of the factory's own package are trusted when it is read back, as in a run.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 20)
    features = (rng.normal(size=(CLASSES, 6))[labels] * 4 + rng.normal(size=(60, 6))).astype(np.float32)
    classifier = _made("classifier", factory, params)
    assert classifier.fit(features, labels) is classifier, "fit must give the classifier itself"
    predicted = np.asarray(classifier.predict(features))
    assert predicted.shape == labels.shape, f"predict gave the shape {predicted.shape} for {labels.shape} labels"
    assert np.mean(predicted == labels) > 0.8, "well separated classes were not learned"
    again = _made("classifier", factory, params).fit(features, labels).predict(features)
    assert np.array_equal(predicted, again), "two fits differ: set random_state"
    assert np.array_equal(np.asarray(classifier.predict(features[:1])), predicted[:1]), (
        "one row is answered differently"
    )
    own_package = f"{factory.__module__.partition('.')[0]}."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.skops"
        save_estimator(classifier, path)
        loaded = load_estimator(path, trust=(own_package,))
        assert np.array_equal(loaded.predict(features), predicted), "a loaded copy answers differently"
    return classifier
