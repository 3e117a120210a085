"""Aligner `skada`: the library's numbers in any order of cells, kept through a file, and what it refuses."""

from __future__ import annotations

import sys
from typing import get_args

import numpy as np
import pytest
import sklearn
from cellfeat_da.skada import LABELLED, Adapter, SkadaAdapter, routed
from da_cells import cells_of, drawn

from cellfeat import CellfeatError, UnseenDomainError
from cellfeat.testing import cpu_context, examine

ADAPTERS = get_args(Adapter)
PARAMS = {
    "MMDLSConSMappingAdapter": {"gamma": 0.1, "max_iter": 5},
    "TransferSubspaceLearningAdapter": {"n_components": 2, "max_iter": 5},
    "TransferComponentAnalysisAdapter": {"n_components": 3},
    "TransferJointMatchingAdapter": {"n_components": 3, "max_iter": 5},
}
SOURCE, TARGET = 30, 24


@pytest.fixture
def context(tmp_path):
    return cpu_context(tmp_path)


@pytest.fixture(scope="module")
def cells():
    """Two domains, each a third of every class; target labels hidden."""
    label = np.concatenate([np.arange(SOURCE) % 3, np.full(TARGET, -1)])
    data = drawn({"s": SOURCE, "t": TARGET})
    data["s"][:, 0] += 3 * label[:SOURCE]
    return cells_of(data, ("t",), label)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_gives_the_librarys_numbers_in_any_order_and_from_a_file(name, cells, context, tmp_path):
    with routed():
        import skada

        own = getattr(skada, name)(**PARAMS.get(name, {}))
        label = cells.label if name in LABELLED else None
        domain = np.where(cells.is_target, -1, 1)
        expected = own.fit_transform(cells.pooled.astype(float), label, sample_domain=domain)
    fitted = SkadaAdapter(name, PARAMS.get(name)).fit(cells, context)
    found = fitted.transform(cells, context)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    order = np.random.default_rng(1).permutation(len(cells))[:20]
    np.testing.assert_allclose(fitted.transform(cells[order], context), found[order], rtol=1e-4, atol=1e-5)
    fitted.save(tmp_path)
    np.testing.assert_array_equal(SkadaAdapter.load(tmp_path).transform(cells, context), found)


def test_the_labelled_ones_are_those_that_labels_change(cells, context):
    other = np.where(cells.label >= 0, (cells.label * 2 + np.arange(len(cells)) // 7) % 3, -1)
    turned = cells_of({"s": cells.pooled[:SOURCE], "t": cells.pooled[SOURCE:]}, ("t",), other)
    changed = set()
    for name in ADAPTERS:
        methods = [SkadaAdapter(name, PARAMS.get(name)).fit(one, context) for one in (cells, turned)]
        if not np.array_equal(*(method.transform(cells, context) for method in methods)):
            changed.add(name)
    assert changed == set(LABELLED)


def test_it_keeps_the_contract_also_with_labels():
    params = {"max_iter": 2, "max_inner_iter": 20}
    examine("align", SkadaAdapter, {"adapter": "ClassRegularizerOTMappingAdapter", "params": params}).raise_failures()


def test_scikit_learns_global_setting_is_left_alone(cells, context):
    SkadaAdapter().fit(cells, context).transform(cells, context)
    assert not sklearn.get_config()["enable_metadata_routing"]


def test_without_targets_features_stay_and_it_is_said(cells, context):
    alone = cells[~cells.is_target]
    np.testing.assert_array_equal(SkadaAdapter().fit(alone, context).transform(alone, context), alone.pooled)
    assert context.reporter.notes == ["skada: no target cells to adapt to, so features stay as they are"]


def test_few_cells_are_drawn_by_the_seed(cells, tmp_path):
    def fitted(seed: int) -> np.ndarray:
        context = cpu_context(tmp_path, seed)
        return SkadaAdapter(max_cells=10).fit(cells, context).transform(cells, context)

    np.testing.assert_array_equal(fitted(1), fitted(1))
    assert not np.array_equal(fitted(1), fitted(2))


def test_a_laboratory_that_fit_was_not_shown_is_refused(cells, context):
    fitted = SkadaAdapter().fit(cells, context)
    with pytest.raises(UnseenDomainError, match="'skada'"):
        fitted.transform(cells_of(drawn({"new": 4}), ()), context)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"params": {"rge": 1}}, r"CORALAdapter does not take these params: .*'rge'"),
        ({"adapter": "MMDLSConSMappingAdapter"}, r"does not take these params: .*'gamma'"),
    ],
)
def test_wrong_params_are_told_before_any_work(params, line, context):
    with pytest.raises(CellfeatError, match=line):
        SkadaAdapter(**params).prepare(context)


def test_what_the_library_refuses_is_one_line(cells, context):
    with pytest.raises(CellfeatError, match="align 'skada': CORALAdapter refuses: ") as caught:
        SkadaAdapter(params={"reg": 7.0}).fit(cells, context)
    assert "\n" not in str(caught.value)


def test_without_skada_the_extra_is_named(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "skada", None)
    with pytest.raises(CellfeatError, match=r"^align 'skada' needs skada, .*\"cellfeat\[skada\]\""):
        SkadaAdapter().prepare(context)


def test_what_the_library_warns_of_is_said(cells, context):
    SkadaAdapter("TransferSubspaceLearningAdapter", {"n_components": 2, "max_iter": 1}).fit(cells, context)
    (note,) = context.reporter.notes
    assert note.startswith("skada: TransferSubspaceLearningAdapter: Optimization did not converge.")


def test_a_file_of_foreign_types_is_not_loaded(cells, context, tmp_path):
    import skops.io
    import torch

    SkadaAdapter().fit(cells, context).save(tmp_path)
    skops.io.dump({"a": torch.nn.Identity()}, tmp_path / "adapter.skops")
    with pytest.raises(CellfeatError, match=r"types that are not trusted: torch\."):
        SkadaAdapter.load(tmp_path)


def test_what_only_its_name_makes_harmless_is_not_run(cells, context, tmp_path):
    import numpy.testing
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    SkadaAdapter().fit(cells, context).save(tmp_path)
    skops.io.dump(FunctionTransformer(numpy.testing.runstring, kw_args={"dict": {}}), tmp_path / "adapter.skops")
    with pytest.raises(CellfeatError, match=r"types that are not trusted: numpy\.testing\S*\.runstring; it was not"):
        SkadaAdapter.load(tmp_path)


def test_the_other_penalty_comes_back_too(cells, context, tmp_path):
    params = {"norm": "l1l2", "max_iter": 2, "max_inner_iter": 20}
    fitted = SkadaAdapter("ClassRegularizerOTMappingAdapter", params).fit(cells, context)
    fitted.save(tmp_path)
    loaded = SkadaAdapter.load(tmp_path)
    np.testing.assert_array_equal(loaded.transform(cells, context), fitted.transform(cells, context))
