"""What laboratories call their cells: a ward's own words to the labels that the vocabularies know.

English names and their synonyms follow the ICSH recommendations (Palmer et al. 2015, Int J Lab Hematol 37:287-303); the
other words are what these cells are called in the languages of the laboratories, and their usual abbreviations. A word
that means different cells in different places is left out on purpose: "blasts" (of which line), "reactive" (ICSH tells
them from abnormal lymphocytes, many sheets do not), "polys". What stands here is proposed in a draft
(`cellfeat.label_drafts`), where its reader sees it, and never used behind anybody's back.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches

from cellfeat.labels import known_label

TYPES = {
    "neutrophil": "neutrophil neutrophils neutrophile neutrophiler neutrophilen neutrophiles neutro neutros neut neuts "
    "neutrofil neutrofils neutrofile neutrofili neutrofilo neutrofilos neutrofielen notrofil notrofiller "
    "pmn pmns нейтрофил нейтрофилы 中性粒细胞",
    "eosinophil": "eosinophil eosinophils eosinophile eosinophiler eosinophilen eosinophiles eosino eosinos eos "
    "eosinofil eosinofili eosinofilo eosinofilos eosinofielen eozinofil eozinofiller eozynofile эозинофил "
    "эозинофилы 嗜酸性粒细胞",
    "basophil": "basophil basophils basophile basophiler basophilen basophiles baso basos basofil basofili basofilo "
    "basofilos basofielen bazofil bazofiller bazofile базофил базофилы 嗜碱性粒细胞",
    "monocyte": "monocyte monocytes monozyt monozyten mono monos monosit monositler monocito monocitos monociti "
    "monocieten monocyty моноцит моноциты 单核细胞",
    "lymphocyte": "lymphocyte lymphocytes lymphozyt lymphozyten lympho lymphos lymph lymphs lenfosit lenfositler "
    "linfocito linfocitos linfociti lymfocyten limfocyty лимфоцит лимфоциты 淋巴细胞",
    "erythroblast": "erythroblast erythroblasts erythroblasten erythroblaste erythroblastes normoblast normoblasts "
    "normoblasten nrbc nrbcs eritroblast eritroblastlar eritroblasto eritroblastos eritroblasti "
    "эритробласт эритробласты",
    "myeloblast": "myeloblast myeloblasts myeloblasten myeloblaste myeloblastes miyeloblast mieloblasto mieloblastos "
    "mieloblasti миелобласт миелобласты",
    "promyelocyte": "promyelocyte promyelocytes promyelozyt promyelozyten promiyelosit promielocito promielocitos "
    "promielociti промиелоцит промиелоциты",
    "myelocyte": "myelocyte myelocytes myelozyt myelozyten miyelosit mielocito mielocitos mielociti миелоцит миелоциты",
    "metamyelocyte": "metamyelocyte metamyelocytes metamyelozyt metamyelozyten jugendliche metamiyelosit metamielocito "
    "metamielocitos metamielociti метамиелоцит метамиелоциты",
    "smudge_cell": "smudge smudges basket gumprecht kernschatten",
    "platelet": "platelet platelets plt thrombozyt thrombozyten thrombocyte thrombocytes trombosit trombositler "
    "plaqueta plaquetas plaquette plaquettes piastrine trombociti тромбоцит тромбоциты",
}
# What is said beside a type, or, of neutrophils, instead of it.
SHAPES = {
    "banded": "band bands banded stab stabs stabk stabkernig stabkernige stabkerniger stabkernigen comak cayado "
    "cayados bastonete bastonetes staafkernig staafkernige paleczkowate палочкоядерные",
    "segmented": "seg segs segm segmented segmente segmentes segmentk segmentkernig segmentkernige segmentkerniger "
    "segmentkernigen segmentierte parcali segmentado segmentados segmentati сегментоядерные",
    "typical": "typical typische typischer normal normale",
    "atypical": "atypical atypische atypischer atypisch atipik atipico atipicos atipici atypique atypiques",
}
# Words that change nothing.
PLAIN = frozenset(
    {
        *(
            "cell",
            "cells",
            "zelle",
            "zellen",
            "hucre",
            "hucreler",
            "hucresi",
            "celula",
            "celulas",
            "cellule",
            "cellules",
        ),
        *("granulozyt", "granulozyten", "granulocyte", "granulocytes", "polynucleaire", "polynucleaires"),
        *("gumprechtsche", "gumprechtscher"),
        *("und", "and", "et", "y", "e", "ve"),
    }
)
# Letters that no decomposition takes apart.
_LETTERS = str.maketrans({"ı": "i", "ß": "ss", "ł": "l", "ø": "o", "æ": "ae", "œ": "oe"})


def folded(text: str) -> list[str]:
    """The words of a text without case, accents, digits and signs: "02 Çomak (alt)" gives ["comak", "alt"]."""
    letters = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    return re.findall(r"[^\W\d_]+", "".join(mark for mark in letters if not unicodedata.combining(mark)))


def _table(words: dict[str, str]) -> dict[str, str]:
    return {word: name for name, text in words.items() for spelt in text.split() for word in folded(spelt)}


_TYPE_OF, _SHAPE_OF = _table(TYPES), _table(SHAPES)
_NEUTROPHILS = {"banded": "neutrophil_banded", "segmented": "neutrophil_segmented"}
_LYMPHOCYTES = {"typical": "lymphocyte_typical", "atypical": "lymphocyte_atypical"}


def meaning(text: str) -> str | None:
    """The known label that a laboratory's word stands for; None where any part of it is unknown or in doubt.

    >>> meaning("Neutrophile segm."), meaning("çomak"), meaning("Lymphos?!"), meaning("unklar")
    ('neutrophil_segmented', 'neutrophil_banded', 'lymphocyte', None)
    """
    return known_label(text) or _composed(folded(text))


def nearest(text: str) -> str | None:
    """The label that a word would stand for if it were spelt as a known one; a hint for people, not an answer."""
    known = [*_TYPE_OF, *_SHAPE_OF, *PLAIN]
    guesses = [(get_close_matches(word, known, n=1, cutoff=0.75) or [word])[0] for word in folded(text)]
    return _composed(guesses)


def _composed(words: list[str]) -> str | None:
    types = {_TYPE_OF[word] for word in words if word in _TYPE_OF}
    shapes = {_SHAPE_OF[word] for word in words if word in _SHAPE_OF}
    if len(types) > 1 or any(word not in _TYPE_OF and word not in _SHAPE_OF and word not in PLAIN for word in words):
        return None
    name = next(iter(types), "neutrophil" if shapes and shapes <= _NEUTROPHILS.keys() else None)
    if name is None or not shapes:
        return name
    if shapes == _NEUTROPHILS.keys() and name == "neutrophil":  # both kinds together
        return name
    finer = {"neutrophil": _NEUTROPHILS, "lymphocyte": _LYMPHOCYTES}.get(name, {})
    if len(shapes) == 1 and (found := finer.get(next(iter(shapes)))):
        return found
    return name if name in ("eosinophil", "basophil") and shapes <= _NEUTROPHILS.keys() else None
