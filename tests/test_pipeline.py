"""What a method is handed, how methods are joined, and that a saved pipeline answers as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import Identity, NearestMean, labelled_cells, with_plugins

from cellfeat import CellfeatError, Cells, Features, SavesState, UnseenDomainError
from cellfeat.console import SilentReporter
from cellfeat.extract import Encoder
from cellfeat.handing import shown
from cellfeat.pipeline import Pipeline, columns_read, resolve
from cellfeat.recipe import parse
from cellfeat.registry import Offer, installed


def pipeline_of(recipe, registry, context, classes=("x", "y", "z"), encoder=None):
    recipe = resolve(parse({"backbone": {"name": "colour"}, **recipe}), registry)
    return Pipeline.build(recipe, registry, classes, context, encoder)


def with_hidden_target(cells: Cells, domain: str = "b") -> Cells:
    cells = cells.with_target(np.flatnonzero(cells.domain == domain))
    return cells.hide_labels(cells.is_target)


def test_a_method_sees_no_ids_no_names_of_groups_and_no_other_columns():
    cells = labelled_cells().with_column("map", np.zeros((72, 2, 3, 3), np.float32))
    labelled = type("Labelled", (Identity,), {"uses_labels": True})()
    order = np.random.default_rng(0).permutation(72)
    view = shown(cells, labelled, order)
    np.testing.assert_array_equal(view.label, cells.label[order])
    np.testing.assert_array_equal(view.pooled, cells.pooled[order])
    assert list(view.columns) == ["pooled"]
    assert not set(view.id) & set(cells.id)
    assert list(view.group) == [str(row) for row in range(72)], "numbered as they appear, not by name"
    assert (shown(cells, Identity(), order).label == -1).all()
    assert (cells.label >= 0).all(), "the caller's cells were changed"


def test_columns_come_from_what_the_chain_reads():
    vector = Identity()
    end_to_end = type("EndToEnd", (Identity,), {"reads": ("image",)})()
    painter = type("Painter", (Identity,), {"reads": ("image", "mask"), "writes": "image"})()
    tokens = type("Tokens", (Identity,), {"reads": ("map", "crop")})()
    assert columns_read([vector, vector]) == ("pooled",)
    assert columns_read([tokens, vector]) == ("map", "crop")
    assert columns_read([vector, tokens]) == ("pooled", "map", "crop")
    assert columns_read([end_to_end]) == ("image",)
    assert columns_read([painter, tokens]) == ("image", "mask")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda x: x.astype(np.float64), "float64"),
        (lambda x: x[:-1], r"\(72, D\)"),
        (lambda x: np.full_like(x, np.nan), "NaN or infinite features for 72 of 72"),
        (lambda x: x.tolist(), "list"),
    ],
)
def test_a_wrong_answer_is_refused_by_the_methods_name(answer, fault, context):
    class Wrong(Identity):
        def transform(self, cells, context):
            return answer(cells.pooled)

    pipeline = pipeline_of({"align": {"name": "wrong"}}, with_plugins(wrong=Wrong), context)
    with pytest.raises(CellfeatError, match=f"'wrong'.*{fault}"):
        pipeline.fit_align(with_hidden_target(labelled_cells()), context)


def test_a_chain_is_its_methods_one_after_the_other(context):
    cells = with_hidden_target(labelled_cells())
    chained = pipeline_of({"align": [{"name": "per-domain-z"}, {"name": "coral"}]}, installed(), context)
    vectors = chained.fit_align(cells, context)
    first = installed().create("align", "per-domain-z", {}, context).fit(cells.hide_labels(), context)
    middle = cells.hide_labels().with_column("pooled", first.transform(cells, context))
    second = installed().create("align", "coral", {}, context).fit(middle, context)
    np.testing.assert_allclose(vectors, second.transform(middle, context), atol=1e-6)
    np.testing.assert_allclose(chained.features(cells, context), vectors, atol=1e-6)


@pytest.mark.parametrize("trace", ["row", "id", "group"])
def test_the_order_of_rows_tells_nothing(trace, context):
    """File names tell the class, and the cells stand in the order of their names: a method must not profit."""

    class Order(Identity):
        def transform(self, cells, context):
            ranks = {"row": np.arange(len(cells)), "id": cells.id.astype(int), "group": cells.group.astype(int)}[trace]
            return np.stack([ranks, ranks**2 / 100], axis=1).astype(np.float32)

    cells = labelled_cells(per_class=40)
    cells = cells[np.argsort(cells.domain.astype(object) + cells.label.astype(str), kind="stable")]
    pipeline = pipeline_of(
        {"align": {"name": "order"}, "classifier": {"name": "rf", "n_estimators": 20}},
        with_plugins(order=Order),
        context,
    )
    pipeline.methods[0].probed = True  # such a method is refused; here it is to be seen that it learns nothing
    source, target = np.flatnonzero(cells.domain == "a"), np.flatnonzero(cells.domain == "b")
    pipeline.fitted_classes = np.arange(3)
    vectors = pipeline.features(cells[source], context)
    pipeline.fit_classifier(installed(), cells[source], vectors, context)
    chosen, _ = pipeline.predict(cells[target], context)
    assert np.mean(chosen == cells.label[target]) < 0.5, "three classes, chance is a third"


def test_a_method_that_adapts_to_what_it_transforms_is_refused(context):
    class Batch(Identity):
        def transform(self, cells, context):
            return cells.pooled - cells.pooled.mean(0)

    pipeline = pipeline_of({"align": {"name": "batch"}}, with_plugins(batch=Batch), context)
    with pytest.raises(CellfeatError, match="'batch': transform answers a cell differently"):
        pipeline.fit_align(with_hidden_target(labelled_cells()), context)

    class Prior(Identity):
        def adjust(self, proba, cells):
            return proba / proba.mean(0)

    registry = with_plugins(prior=Prior)
    pipeline = pipeline_of({"align": {"name": "prior"}, "classifier": {"name": "lr"}}, registry, context)
    cells = labelled_cells()
    pipeline.fit_classifier(registry, cells, pipeline.fit_align(cells, context), context)
    with pytest.raises(CellfeatError, match="'prior': adjust answers a cell differently"):
        pipeline.predict(cells[:30], context)


def test_corrections_are_learned_from_what_may_be_adapted_to(context):
    class Prior(Identity):
        def fit_adjust(self, proba, cells, context):
            assert (cells.label == -1).all()
            self.prior = proba.mean(0)

        def adjust(self, proba, cells):
            weighted = proba * self.prior
            return weighted / weighted.sum(1, keepdims=True)

    registry = with_plugins(prior=Prior)
    pipeline = pipeline_of({"align": {"name": "prior"}, "classifier": {"name": "lr"}}, registry, context)
    cells = labelled_cells()
    source, target = cells[cells.domain == "a"], cells[cells.domain == "b"]
    vectors = pipeline.fit_align(source, context)
    pipeline.fit_classifier(registry, source, vectors, context)
    pipeline.fit_adjust(target, context)
    plain = pipeline.head.predict_proba(target.pooled)
    wanted = plain * plain.mean(0)
    np.testing.assert_allclose(pipeline.predict(target, context)[1], wanted / wanted.sum(1, keepdims=True), atol=1e-6)


def test_a_chain_in_which_work_would_be_lost_is_refused(context):
    with pytest.raises(
        CellfeatError, match="'cae' reads map, crop, mask and not the vectors that align 'per-domain-z'"
    ):
        pipeline_of({"align": [{"name": "per-domain-z"}, {"name": "cae"}]}, installed(), context)


def test_labels_reach_a_method_as_0_to_k_minus_1(context):
    seen = []

    class Spy(Identity):
        uses_labels = True

        def fit(self, cells, context):
            seen.append(sorted(set(cells.label.tolist())))
            return self

    cells = labelled_cells()
    cells = with_hidden_target(cells[cells.label != 1])
    pipeline_of({"align": {"name": "spy"}}, with_plugins(spy=Spy), context).fit_align(cells, context)
    assert seen == [[-1, 0, 1]]


@pytest.mark.parametrize("classifier", ["svm-linear", "lr"])
def test_a_saved_pipeline_answers_as_before(classifier, context, tmp_path):
    cells = with_hidden_target(labelled_cells())
    recipe = {"align": [{"name": "per-domain-z"}, {"name": "coral"}], "classifier": {"name": classifier}}
    pipeline = pipeline_of(recipe, installed(), context)
    source = np.flatnonzero(~cells.is_target)
    vectors = pipeline.fit_align(cells, context)
    pipeline.fit_classifier(installed(), cells[source], vectors[source], context)
    pipeline.facts = {"seed": 7}
    pipeline.save(tmp_path / "saved")
    loaded = Pipeline.load(tmp_path / "saved", installed(), context)
    for before, after in zip(pipeline.predict(cells, context), loaded.predict(cells, context), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.facts == {"seed": 7}
    assert loaded.domains == ("a", "b")
    with pytest.raises(CellfeatError, match="never overwritten"):
        pipeline.save(tmp_path / "saved")


def test_probabilities_have_every_class_and_zero_for_those_unseen(context):
    cells = labelled_cells()
    cells = cells[(cells.label != 1) & (cells.domain == "a")]
    pipeline = pipeline_of({"classifier": {"name": "lr"}}, installed(), context)
    vectors = pipeline.fit_align(cells, context)
    pipeline.fit_classifier(installed(), cells, vectors, context)
    chosen, proba = pipeline.predict(cells, context)
    assert proba.shape == (len(cells), 3)
    assert (proba[:, 1] == 0).all()
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_array_equal(chosen, proba.argmax(1))


class OwnHead(SavesState, Identity):
    """Nearest class mean, with probabilities of its own."""

    uses_target, uses_labels = False, True

    def fit(self, cells, context):
        self.means_ = np.stack([cells.pooled[cells.label == c].mean(0) for c in range(cells.label.max() + 1)])
        return self

    def predict_proba(self, cells, context):
        distance = ((cells.pooled[:, None] - self.means_) ** 2).sum(-1)
        score = np.exp(distance.min(1, keepdims=True) - distance)
        return score / score.sum(1, keepdims=True)


def test_a_methods_own_head_is_used_when_no_classifier_is_named(context, tmp_path):
    registry = with_plugins(own_head=OwnHead)
    cells = labelled_cells(domains=("a",))
    recipe = {"align": {"name": "own-head"}}
    pipeline = pipeline_of(recipe, registry, context)
    vectors = pipeline.fit_align(cells, context)
    pipeline.fit_classifier(registry, cells, vectors, context)
    chosen, _ = pipeline.predict(cells, context)
    assert np.mean(chosen == cells.label) > 0.9
    pipeline.save(tmp_path / "saved")
    loaded = Pipeline.load(tmp_path / "saved", registry, context)
    np.testing.assert_array_equal(loaded.predict(cells, context)[0], chosen)


def test_a_method_without_a_head_needs_a_classifier(context):
    pipeline = pipeline_of({}, installed(), context)
    cells = labelled_cells()
    vectors = pipeline.fit_align(cells, context)
    with pytest.raises(CellfeatError, match="name a classifier"):
        pipeline.fit_classifier(installed(), cells, vectors, context)


def test_weights_and_corrections_of_a_method_reach_the_classifier(context):
    class Weighted(Identity):
        def sample_weight(self, cells):
            return np.where(cells.pooled[:, 0] > 0, 1.0, 0.0)

        def adjust(self, proba, cells):
            return np.roll(proba, 1, axis=1)

    cells = labelled_cells(domains=("a",))
    plain = pipeline_of({"classifier": {"name": "lr"}}, installed(), context)
    plain.fit_classifier(installed(), cells, plain.fit_align(cells, context), context)
    registry = with_plugins(weighted=Weighted)
    weighted = pipeline_of({"align": {"name": "weighted"}, "classifier": {"name": "lr"}}, registry, context)
    weighted.fit_classifier(registry, cells, weighted.fit_align(cells, context), context)
    heavy = cells[cells.pooled[:, 0] > 0]
    kept = pipeline_of({"classifier": {"name": "lr"}}, installed(), context)
    kept.fit_align(cells, context)
    assert not np.allclose(weighted.head.predict_proba(heavy.pooled), plain.head.predict_proba(heavy.pooled))
    _, proba = weighted.predict(cells, context)
    np.testing.assert_allclose(proba, np.roll(weighted.head.predict_proba(cells.pooled), 1, axis=1))


class Brightness:
    """A backbone for toys: the mean colour."""

    image_size, interpolation = 16, "bilinear"

    def encode(self, images: torch.Tensor) -> Features:
        return Features(images.float().mean((2, 3)))


class Negative(Identity):
    reads, writes = ("image",), "image"

    def transform(self, cells, context):
        return 255 - cells.image


def test_images_that_a_method_writes_are_encoded_and_what_follows_reads_them(context, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(20, 3, 16, 16), dtype=np.uint8)
    cells = Cells.from_arrays(np.arange(20) % 2, domain=np.repeat(["a", "b"], 10), image=images)
    encoder = Encoder(Brightness(), None, {"toy": 1}, tmp_path / "stores", context)
    recipe = {"align": [{"name": "negative"}, {"name": "per-domain-z"}], "classifier": {"name": "lr"}}
    pipeline = pipeline_of(recipe, with_plugins(negative=Negative), context, ("x", "y"), encoder)
    vectors = pipeline.fit_align(cells, context)
    means = (255 - images.astype(np.float64)).mean((2, 3))
    wanted = np.concatenate([(part - part.mean(0)) / part.std(0) for part in (means[:10], means[10:])])
    np.testing.assert_allclose(vectors, wanted, atol=1e-3)


def test_folds_and_seeds_that_paint_the_same_pixels_encode_them_once(context, tmp_path):
    class Watched(Brightness):
        seen = 0

        def encode(self, images):
            self.seen += len(images)
            return super().encode(images)

    images = np.random.default_rng(0).integers(0, 256, size=(20, 3, 16, 16), dtype=np.uint8)
    cells = Cells.from_arrays(np.arange(20) % 2, domain=np.repeat(["a", "b"], 10), image=images)
    backbone, recipe, answers = Watched(), {"align": [{"name": "negative"}, {"name": "none"}]}, []
    for number, rows in enumerate((slice(0, 15), slice(5, 20), slice(0, 20))):
        fold = replace(context, scratch=tmp_path / f"fold-{number}")
        fold.scratch.mkdir()
        encoder = Encoder(backbone, None, {"toy": 1}, tmp_path / "stores", fold, batch=5)
        pipeline = pipeline_of(recipe, with_plugins(negative=Negative), fold, ("x", "y"), encoder)
        answers.append(pipeline.fit_align(cells[rows], fold))
        assert backbone.seen == (15, 20, 20)[number]
        assert not list(fold.scratch.glob("*/store.json"))
    np.testing.assert_array_equal(answers[0], answers[2][:15])
    np.testing.assert_array_equal(answers[1], answers[2][5:])
    np.testing.assert_allclose(answers[2], (255 - images.astype(np.float64)).mean((2, 3)), atol=1e-3)


def test_a_method_that_writes_images_must_come_first(context):
    recipe = {"align": [{"name": "none"}, {"name": "negative"}]}
    with pytest.raises(CellfeatError, match="must come before"):
        pipeline_of(recipe, with_plugins(negative=Negative), context)


def test_an_unseen_domain_says_what_to_do(context):
    cells = labelled_cells(domains=("a", "b", "c"))
    pipeline = pipeline_of({"align": {"name": "per-domain-z"}}, installed(), context)
    pipeline.fit_align(cells[cells.domain != "c"], context)
    with pytest.raises(UnseenDomainError, match=r"'c'.*fitted on a, b.*--refit"):
        pipeline.features(cells, context)


def test_wrong_declarations_are_named(context):
    wrong = type("Wrong", (Identity,), {"writes": "vectors"})
    with pytest.raises(CellfeatError, match=r"'wrong' of toys: writes is 'vectors'"):
        pipeline_of({"align": {"name": "wrong"}}, with_plugins(wrong=wrong), context)
    bare = type("Bare", (), {"reads": ("pooled",)})
    with pytest.raises(CellfeatError, match="without writes, uses_target, uses_labels, fit, transform, save, load"):
        pipeline_of({"align": {"name": "bare"}}, with_plugins(bare=bare), context)


def test_a_classifier_that_could_not_be_read_back_is_refused_before_the_run(context, tmp_path):
    def nearest():
        return NearestMean()

    nearest.__module__ = "elsewhere.methods"
    registry = with_plugins(identity=Identity)
    registry.offers.append(Offer("classifier", "nearest", nearest, "toys", "toys", "1.0"))
    pipeline = pipeline_of({"classifier": {"name": "nearest"}}, registry, context)
    with pytest.raises(CellfeatError, match=r"'nearest' cannot be saved and read back.*factory.trusted"):
        pipeline.check_classifier(registry, context)
    nearest.trusted = ("helpers.",)
    pipeline.check_classifier(registry, context)
    cells = labelled_cells(domains=("a",))
    pipeline.fit_classifier(registry, cells, pipeline.fit_align(cells, context), context)
    pipeline.save(tmp_path / "saved")
    loaded = Pipeline.load(tmp_path / "saved", registry, context)
    np.testing.assert_array_equal(loaded.predict(cells, context)[0], pipeline.predict(cells, context)[0])


def test_the_fits_of_a_classifier_are_shown_by_its_name(context):
    bars = []

    class Told(SilentReporter):
        def progress(self, total, text):
            bars.append((total, text))
            return super().progress(total, text)

    cells = labelled_cells()
    context = replace(context, reporter=Told())
    for name, fits in (("svm-linear", 4), ("lr", 1)):
        pipeline = pipeline_of({"align": {"name": "none"}, "classifier": {"name": name}}, installed(), context)
        pipeline.fit_classifier(installed(), cells, pipeline.fit_align(cells, context), context)
        assert bars[-1] == (fits, f"{name}: fits")


@pytest.mark.parametrize("first", ["label-shift", "importance"])
def test_a_method_that_works_on_the_classifier_must_come_last(first, context):
    recipe = resolve(parse({"align": [{"name": first}, {"name": "per-domain-z"}]}), installed())
    with pytest.raises(CellfeatError, match=f"align '{first}' works on the classifier .*: put {first} last"):
        Pipeline.build(recipe, installed(), ("x", "y"), context)
