"""KernelSVC is scikit-learn's SVC: attributes, decisions, predictions; what differs is where kernels are computed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from cellfeat_classifiers import factories, inner_products, kernel_svc, threads
from cellfeat_classifiers.inner_products import kernel_matrix, shared_inner_products
from cellfeat_classifiers.kernel_svc import KernelSVC
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import linear_kernel, polynomial_kernel, rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from cellfeat import CellfeatError
from cellfeat.classification import ClassifierHead

SETTINGS = (
    {"kernel": "linear"},
    {"kernel": "linear", "break_ties": True, "C": 0.1},
    {"kernel": "poly"},
    {"kernel": "poly", "degree": 2, "coef0": 1.0, "shrinking": False},
    {"kernel": "rbf"},
    {"kernel": "rbf", "gamma": "auto", "decision_function_shape": "ovo", "class_weight": "balanced"},
    {"kernel": "rbf", "gamma": 0.3, "C": 5.0, "tol": 1e-4},
)
LEARNED = ("support_", "support_vectors_", "n_support_", "n_iter_", "classes_", "class_weight_", "shape_fit_")


def drawn(seed: int, n: int | None = None, n_classes: int | None = None):
    """float32 rows of overlapping classes, with duplicates or whole numbers in some draws; labels; rows to answer."""
    rng = np.random.default_rng(seed)
    n, n_classes = n or int(rng.integers(30, 200)), n_classes or 2 + seed % 5
    width = (2, 5, 30, 300)[seed % 4]
    labels = np.r_[np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)]
    rows = rng.normal(size=(n, width)) + 0.7 * rng.normal(size=(n_classes, width))[labels]
    if seed % 3 == 0:
        rows[n // 2 : n // 2 + 10] = rows[:10]
    if seed % 5 == 0:
        rows = rows.round()  # decisions of exactly 0, votes of equal number
    new = np.concatenate([rows, rng.normal(size=(50, width)).round(), np.zeros((1, width))])
    return rows.astype(np.float32), labels, new.astype(np.float32)


def weights_of(seed: int, n: int, n_classes: int) -> np.ndarray | None:
    """None, or weights that remove some rows, but never a class."""
    if seed % 2:
        return None
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.2, 3.0, n)
    weight[n_classes + rng.integers(0, n - n_classes, n // 4)] = 0.0
    return weight


def assert_same(ours: SVC, plain: SVC, new: np.ndarray) -> None:
    for name in LEARNED:
        np.testing.assert_array_equal(getattr(ours, name), getattr(plain, name), err_msg=name)
        assert np.asarray(getattr(ours, name)).dtype == np.asarray(getattr(plain, name)).dtype
    np.testing.assert_allclose(ours.dual_coef_, plain.dual_coef_, atol=1e-9)
    np.testing.assert_allclose(ours.intercept_, plain.intercept_, atol=1e-9)
    np.testing.assert_allclose(ours.decision_function(new), plain.decision_function(new), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(new), plain.predict(new))
    assert set(vars(ours)) == set(vars(plain))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: "-".join(map(str, setting.values())))
def test_the_model_is_scikit_learns(setting):
    for seed in range(20):
        rows, labels, new = drawn(seed)
        weight = weights_of(seed, len(rows), labels.max() + 1)
        ours, plain = (kind(**setting).fit(rows, labels, weight) for kind in (KernelSVC, SVC))
        assert_same(ours, plain, new)


def test_linear_weights_are_scikit_learns():
    rows, labels, _ = drawn(1)
    ours, plain = (kind(kernel="linear").fit(rows, labels) for kind in (KernelSVC, SVC))
    np.testing.assert_allclose(ours.coef_, plain.coef_, atol=1e-9)


def test_a_vote_that_ends_even_goes_where_libsvm_sends_it():
    """Three classes around the middle, which is on every border: each decision there is 0 but for rounding."""
    angles = np.arange(3) * 2 * np.pi / 3
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    new = np.concatenate([np.zeros((1, 2)), -rows, 1e-17 * rows])
    for kernel in ("linear", "poly", "rbf"):
        for order in ([0, 1, 2], [1, 2, 0], [2, 1, 0]):
            ours, plain = (kind(kernel=kernel).fit(rows, order) for kind in (KernelSVC, SVC))
            np.testing.assert_array_equal(ours.predict(new), plain.predict(new))
            np.testing.assert_array_equal(ours.decision_function(new)[:1], plain.decision_function(new)[:1])


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf"])
def test_without_memory_libsvm_computes_kernels_by_itself(kernel, monkeypatch):
    rows, labels, new = drawn(2, 120, 3)
    monkeypatch.setattr(inner_products, "free_memory", lambda: 8.0 * 100**2)
    assert kernel_matrix(rows.astype(float), kernel) is None
    given = []
    fit = kernel_svc._Pair.fit_given
    monkeypatch.setattr(
        kernel_svc._Pair, "fit_given", lambda self, *args: (given.append(self.kernel), fit(self, *args))
    )
    ours = KernelSVC(kernel=kernel).fit(rows, labels)
    assert given == [kernel] * 3
    assert_same(ours, SVC(kernel=kernel).fit(rows, labels), new)


def test_a_matrix_is_given_where_there_is_memory(monkeypatch):
    rows, labels, _ = drawn(2, 120, 3)
    monkeypatch.setattr(inner_products, "free_memory", lambda: 8.0 * 120**2 / inner_products.MEMORY_SHARE)
    given = []
    monkeypatch.setattr(kernel_svc._Pair, "_dense_fit", lambda self, X, *_: given.append((self.kernel, X)))
    with pytest.raises(AttributeError):  # nothing was fitted
        KernelSVC(kernel="poly").fit(rows, labels)
    kernels, matrices = zip(*given, strict=True)
    assert set(kernels) == {"precomputed"}
    assert all(matrix is matrices[0] and matrix.shape == (120, 120) for matrix in matrices)  # one, and never copied


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"kernel": "linear"}, linear_kernel),
        ({"kernel": "poly", "gamma": 0.2, "coef0": 0.5, "degree": 5}, polynomial_kernel),
        ({"kernel": "poly", "gamma": 0.2, "degree": 0}, lambda rows, **_: np.ones((50, 50))),
        ({"kernel": "rbf", "gamma": 0.1}, rbf_kernel),
    ],
)
@pytest.mark.parametrize("block", [7, 64])
def test_kernel_matrix_in_blocks(setting, rule, block, monkeypatch):
    monkeypatch.setattr(inner_products, "BLOCK", block)
    rows = np.random.default_rng(3).normal(size=(50, 6))
    rows[20] = rows[3]
    found = kernel_matrix(rows, **setting)
    np.testing.assert_allclose(found, rule(rows, **{k: v for k, v in setting.items() if k != "kernel"}), rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    assert found.flags.c_contiguous
    if setting["kernel"] == "rbf":
        assert found.max() == 1.0
        assert (found.diagonal() == 1.0).all()


def test_kernels_of_the_same_rows_share_inner_products(monkeypatch):
    made = []
    build = inner_products._symmetric
    monkeypatch.setattr(
        inner_products, "_symmetric", lambda rows, given, values: (made.append(given), build(rows, given, values))[1]
    )
    rows, labels, new = drawn(4, 150, 4)
    with shared_inner_products() as holder:
        models = [KernelSVC(kernel=kernel).fit(rows, labels) for kernel in ("poly", "linear", "rbf")]
        assert [given is None for given in made] == [True, False, False]  # products once, then two kernels of them
        KernelSVC(kernel="linear").fit(rows[::-1] * 2, labels[::-1])  # other rows
        assert made[3] is None
        assert holder._products is not None
    assert holder._products is None
    for model in models:
        assert_same(model, SVC(kernel=model.kernel).fit(rows, labels), new)


def test_where_two_matrices_do_not_fit_the_shared_one_is_given_up(monkeypatch):
    rows, labels, new = drawn(4, 150, 4)
    with shared_inner_products() as holder:
        KernelSVC(kernel="linear").fit(rows, labels)
        room = 8.0 * 150**2 / inner_products.MEMORY_SHARE
        monkeypatch.setattr(inner_products, "free_memory", lambda: room if holder._products is None else room - 1)
        model = KernelSVC(kernel="poly").fit(rows, labels)
        assert holder._products is None
    assert_same(model, SVC(kernel="poly").fit(rows, labels), new)


def test_the_factories_tell_how_to_share():
    with factories.svm_linear.sharing() as holder:
        features, labels, _ = drawn(4, 150, 4)
        factories.svm_linear().fit(features, labels)
        first = holder._products
        factories.svm_poly().fit(features, labels)
        assert holder._products is first


def test_prediction_takes_blocks_of_bounded_size(monkeypatch):
    rows, labels, new = drawn(6, 150, 4)
    model = KernelSVC(kernel="rbf").fit(rows, labels)
    whole = model.decision_function(new)
    shapes = []
    apply = kernel_svc.apply_kernel
    monkeypatch.setattr(
        kernel_svc, "apply_kernel", lambda values, *args: (shapes.append(values), apply(values, *args))[1]
    )
    monkeypatch.setattr(kernel_svc, "BLOCK_BYTES", 8 * 13 * len(model.support_vectors_))
    np.testing.assert_allclose(model.decision_function(new), whole, atol=1e-12)
    assert [len(values) for values in shapes] == [13] * (len(new) // 13) + [len(new) % 13]


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf"])
def test_a_loaded_head_predicts_by_itself(kernel, tmp_path):
    rows, labels, new = drawn(7, 150, 4)
    make = lambda: make_pipeline(StandardScaler(), KernelSVC(kernel=kernel))  # noqa: E731
    head = ClassifierHead.fit(make, rows, labels, np.arange(len(rows)).astype(str))
    head.save(tmp_path)
    loaded = ClassifierHead.load(tmp_path, ("cellfeat_classifiers.",))
    np.testing.assert_array_equal(loaded.predict_proba(new), head.predict_proba(new))
    plain = ClassifierHead.fit(
        lambda: make_pipeline(StandardScaler(), SVC(kernel=kernel)), rows, labels, np.arange(len(rows)).astype(str)
    )
    np.testing.assert_array_equal(head.predict(new), plain.predict(new))
    np.testing.assert_allclose(head.predict_proba(new), plain.predict_proba(new), atol=1e-7)
    with pytest.raises(CellfeatError, match="not trusted: cellfeat_classifiers"):
        ClassifierHead.load(tmp_path)


def test_a_clone_has_the_parameters():
    params = {"kernel": "poly", "degree": 2, "C": 3.0, "class_weight": "balanced"}
    assert clone(KernelSVC(**params)).get_params() == SVC(**params).get_params()


@pytest.mark.parametrize(
    ("weight", "labels"), [(None, [1, 1, 1, 1]), ([0.0, 0, 0, 0], [0, 0, 1, 1]), ([1.0, 1, 0, 0], [0, 0, 1, 1])]
)
def test_what_scikit_learn_refuses_is_refused_in_its_words(weight, labels):
    rows = np.arange(8.0).reshape(4, 2)
    told = []
    for kind in (KernelSVC, SVC):
        with pytest.raises(ValueError, match=r"\w") as error:
            kind(kernel="linear").fit(rows, labels, weight)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_a_class_without_any_weight_is_left_to_libsvm():
    rows, labels, new = drawn(2, 120, 3)
    ours, plain = (
        kind(kernel="linear").fit(rows, labels, np.where(labels == 2, 0.0, 1.0)) for kind in (KernelSVC, SVC)
    )
    np.testing.assert_array_equal(ours.predict(new), plain.predict(new))


@pytest.mark.parametrize("setting", [{"kernel": "sigmoid"}, {"kernel": lambda a, b: a @ b.T}])
def test_other_kernels_are_left_to_libsvm(setting):
    rows, labels, new = drawn(2, 120, 3)
    ours, plain = (kind(**setting).fit(rows, labels) for kind in (KernelSVC, SVC))
    np.testing.assert_array_equal(ours.decision_function(new), plain.decision_function(new))


def test_an_early_stop_is_told_once():
    rows, labels, new = drawn(2, 120, 3)
    with pytest.warns(ConvergenceWarning) as told:
        ours = KernelSVC(kernel="linear", max_iter=3).fit(rows, labels)
    assert len(told) == 1
    with pytest.warns(ConvergenceWarning):
        assert_same(ours, SVC(kernel="linear", max_iter=3).fit(rows, labels), new)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_answer_in_order_whatever_their_number(workers, monkeypatch):
    monkeypatch.setattr("joblib.effective_n_jobs", lambda n_jobs: workers)
    assert threads.in_threads(lambda item: item * item, range(20)) == [item * item for item in range(20)]
    rows, labels, new = drawn(8)
    assert_same(KernelSVC(kernel="poly").fit(rows, labels), SVC(kernel="poly").fit(rows, labels), new)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_further_is_started(error, monkeypatch):
    monkeypatch.setattr("joblib.effective_n_jobs", lambda n_jobs: 2)
    started, go_on = [], threading.Event()

    def work(item: int) -> None:
        started.append(item)
        if item == 0:
            raise error("item 0")
        go_on.wait(10)

    with pytest.raises(error, match="item 0"):
        threads.in_threads(work, range(50))
    go_on.set()
    assert len(started) < 10


def test_limits_of_a_control_group_count(tmp_path):
    inner = tmp_path / "root" / "job" / "step"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    for folder, limit, used, cached in ((inner, "max", "5", "0"), (inner.parent, "1000", "700", "100")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    assert inner_products._free_of_group(tmp_path / "root", own) == 400
    assert inner_products._free_of_group(tmp_path / "root", tmp_path / "none") == float("inf")
    assert 2**20 < inner_products.free_memory() < 2**50
