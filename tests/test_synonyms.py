"""A ward's words: what they mean, and that nothing in doubt is guessed."""

from __future__ import annotations

import unicodedata

import pytest

from cellfeat.labels import DORL_13, FIVE_CLASS, KNOWN_LABELS
from cellfeat.synonyms import SHAPES, TYPES, folded, meaning, nearest


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("Neutrophile segm.", "neutrophil_segmented"),
        ("Segmentkernige", "neutrophil_segmented"),
        ("03 Stabkernige (neu)", None),  # "neu" may be anything
        ("03 Stabkernige (2)", "neutrophil_banded"),
        ("Neutrophile, stab- und segmentkernige", "neutrophil"),
        ("stabkernige und segmentkernige Neutrophile", "neutrophil"),
        ("band cells", "neutrophil_banded"),
        ("segmentkernige Eosinophile", "eosinophil"),
        ("Lymphos", "lymphocyte"),
        ("LYMPHOZYTEN", "lymphocyte"),
        ("atypical lymphocytes", "lymphocyte_atypical"),
        ("Mono", "monocyte"),
        ("Monozyten atypisch", None),
        ("Eos", "eosinophil"),
        ("Baso", "basophil"),
        ("çomak", "neutrophil_banded"),
        ("parçalı nötrofil", "neutrophil_segmented"),
        (unicodedata.normalize("NFD", "parçalı nötrofil"), "neutrophil_segmented"),
        ("Polynucléaires éosinophiles", "eosinophil"),
        ("cayados", "neutrophil_banded"),
        ("нейтрофилы", "neutrophil"),
        ("Gumprechtsche Kernschatten", "smudge_cell"),
        ("SNE", "neutrophil_segmented"),
        ("smudge_cell", "smudge_cell"),
        ("unklar", None),
        ("Blasten", None),
        ("reactive lymphocytes", None),
        ("T-Lymphozyten", None),
        ("Mono / Lympho", None),
        ("Patient 3", None),
        ("typical", None),
        ("Zellen", None),
        ("7", None),
    ],
)
def test_what_a_word_means(word, label):
    assert meaning(word) == label


def test_a_mistyped_word_has_no_meaning_but_a_neighbour():
    for word, label in {
        "Lymhpos": "lymphocyte",
        "Monozytn": "monocyte",
        "Neutrophile sgem": "neutrophil_segmented",
    }.items():
        assert (meaning(word), nearest(word)) == (None, label)
    assert nearest("unklar") is None


def test_every_word_stands_for_one_label_that_the_vocabularies_know():
    words = [
        (word, name) for name, text in (TYPES | SHAPES).items() for spelt in text.split() for word in folded(spelt)
    ]
    assert len({word for word, _ in words}) == len(words) > 200, "a word stands twice"
    assert set(TYPES) <= set(KNOWN_LABELS)
    for name in TYPES:
        for vocabulary in (FIVE_CLASS, DORL_13):
            vocabulary.place(name)


def test_every_word_means_what_its_table_says():
    for name, text in TYPES.items():
        assert {meaning(word) for word in text.split()} == {name}
