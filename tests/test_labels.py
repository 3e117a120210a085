"""Vocabularies: the two built in, and a user's own."""

from __future__ import annotations

import unicodedata

import pytest

from cellfeat.errors import CellfeatError
from cellfeat.labels import ACEVEDO20, DORL_13, FIVE_CLASS, MATEK19, known_label, load_vocabulary


def test_canonical_order_of_the_thirteen_classes():
    assert DORL_13.classes == (
        "basophil", "eosinophil", "erythroblast", "myeloblast", "promyelocyte", "myelocyte", "metamyelocyte",
        "neutrophil_banded", "neutrophil_segmented", "monocyte", "lymphocyte_typical", "lymphocyte_atypical",
        "smudge_cell",
    )  # fmt: skip
    assert FIVE_CLASS.classes == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def test_published_codes_have_the_published_numbers():
    def numbers(codes):
        return {code: DORL_13.classes.index(name) for code, name in codes.items() if name}

    assert numbers(ACEVEDO20) == {
        "BA": 0, "EO": 1, "ERB": 2, "PMY": 4, "MY": 5, "MMY": 6, "BNE": 7, "SNE": 8, "MO": 9, "LY": 10,
    }  # fmt: skip
    assert numbers(MATEK19) == {
        "BAS": 0, "EOS": 1, "EBO": 2, "MYO": 3, "PMO": 4, "MYB": 5, "MMZ": 6, "NGB": 7, "NGS": 8, "MON": 9, "MOB": 9,
        "LYT": 10, "LYA": 11, "KSC": 12,
    }  # fmt: skip
    assert {code for code, name in (ACEVEDO20 | MATEK19).items() if name is None} == {
        "IG", "NEUTROPHIL", "PLATELET", "PMB",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "five", "thirteen"),
    [
        ("neutrophil", "neutrophil", "neutrophil_segmented"),
        ("neutrophil_banded", "neutrophil", "neutrophil_banded"),
        ("Neutrophil Segmented", "neutrophil", "neutrophil_segmented"),
        ("lymphocyte", "lymphocyte", "lymphocyte_typical"),
        ("lymphocyte-typical", "lymphocyte", "lymphocyte_typical"),
        ("lymphocyte_atypical", None, "lymphocyte_atypical"),
        ("erythroblast", None, "erythroblast"),
        ("smudge_cell", None, "smudge_cell"),
        ("platelet", None, None),
        ("immature_granulocyte", None, None),
        ("monoblast", "monocyte", "monocyte"),
        ("SNE", "neutrophil", "neutrophil_segmented"),
        ("EBO", None, "erythroblast"),
        ("PMB", None, None),
    ],
)
def test_where_labels_belong(label, five, thirteen):
    assert FIVE_CLASS.place(label) == five
    assert DORL_13.place(label) == thirteen


def test_accents_of_a_mac_are_those_of_a_keyboard(label_map):
    vocabulary = load_vocabulary(label_map("Nötrofil: neutrophil\nother: null\nMono: monocyte\n"))
    assert vocabulary.place(unicodedata.normalize("NFD", "Nötrofil")) == "neutrophil"


@pytest.mark.parametrize(
    ("word", "label"), [("NGS", "neutrophil_segmented"), ("Platelet", "platelet"), ("Lymphos", None)]
)
def test_labels_that_are_known_as_they_are(word, label):
    assert known_label(word) == label


def test_a_label_known_nowhere_is_an_error_with_the_nearest_names():
    with pytest.raises(CellfeatError, match=r"no label named 'neutrofil'\. Did you mean 'neutrophil'.*--labels map"):
        FIVE_CLASS.place("neutrofil")


def test_vocabularies_by_name():
    assert load_vocabulary("five-class") is FIVE_CLASS
    assert load_vocabulary("thirteen-class") is load_vocabulary("dorl-13") is DORL_13
    assert load_vocabulary(FIVE_CLASS) is FIVE_CLASS
    with pytest.raises(CellfeatError, match="no label vocabulary named 'five-clas'. Did you mean 'five-class'"):  # noqa: RUF043
        load_vocabulary("five-clas")


@pytest.fixture
def label_map(tmp_path):
    def write(text: str):
        path = tmp_path / "map.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_plain_map_sorts_its_classes(label_map):
    vocabulary = load_vocabulary(label_map("SEG: mature\nblast cell: immature\nartefact: null\n"))
    assert vocabulary.classes == ("immature", "mature")
    assert vocabulary.place("seg") == "mature"
    assert vocabulary.place("Blast-Cell") == "immature"
    assert vocabulary.place("artefact") is None
    assert vocabulary.place("mature") == "mature"  # a class stands for itself
    assert vocabulary.place("platelet") is None  # known to cellfeat, not to this map
    with pytest.raises(CellfeatError, match="no label named 'blastcell'"):
        vocabulary.place("blastcell")


def test_a_full_map_keeps_the_order_of_its_classes(label_map):
    vocabulary = load_vocabulary(label_map("classes: [two, one]\nmap: {BA: one}\n"))
    assert vocabulary.classes == ("two", "one")
    assert vocabulary.place("BA") == "one"  # the user's word goes before the code of Acevedo-20
    assert load_vocabulary(label_map("classes: [monocyte, basophil]\n")).place("BAS") == "basophil"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no label map"),
        ("- a\n- b\n", "no label map"),
        ("a: [b\n", "not a YAML file"),
        ("classes: basophil\n", "'classes' must be a list, but is 'basophil'"),
        ("map: [a, b]\n", r"'map' must hold 'label: class' lines, but holds \['a', 'b'\]"),
        ("classes: [one, two]\nmap: {x: tow}\n", r"label 'x': no class named 'tow'\. Did you mean 'two'"),
        ("classes: [one, One]\n", "a class is listed twice"),
        ("x: one\n", "1 classes; there is nothing to tell apart"),
        ("x: no\ny: two\n", "False is not a name; write it in quotes"),
        ("1: one\ny: two\n", "1 is not a name"),
        ("x: one\ny: two\nx: two\n", "line 3 maps 'x' a second time"),
        ("x-y: one\nx y: two\n", "'x y' is mapped twice, to 'one' and 'two'"),
    ],
)
def test_a_wrong_map_is_one_clear_line(label_map, text, message):
    path = label_map(text)
    with pytest.raises(CellfeatError, match=message) as caught:
        load_vocabulary(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_map_that_is_not_there(tmp_path):
    with pytest.raises(CellfeatError, match="cannot be read"):
        load_vocabulary(tmp_path / "absent.yaml")
