"""A record is marked where pretrained weights, adapters or autoencoders have seen its target, in whatever words."""

from __future__ import annotations

import pytest

from cellfeat.records import saw_target


@pytest.mark.parametrize(
    ("saw", "domains", "marked"),
    [
        ((), ["tecom"], False),
        (("SA-1B",), ["tecom"], False),
        (None, ["tecom"], None),
        (("drawn cells", "acevedo20 (images without labels, 1418 left out)"), ["acevedo20"], True),
        (("drawn cells", "acevedo20 (images without labels, 1418 left out)"), ["tecom"], False),
        (("tecom (masks: truth)",), ["tecom"], True),
        (("Acevedo-20 (images without labels)",), ["acevedo20"], True),
        (("tecom (masks: truth)",), ["bccd", "tecom"], True),
        (("tecom-2 (masks: truth)",), ["tecom"], False),
    ],
)
def test_names_are_compared_without_their_remarks(saw, domains, marked):
    assert saw_target(saw, domains) is marked


def test_every_shipped_wording_is_understood():
    from cellfeat_cae.published import BC_SAM_SAW, DORL_SAW
    from cellfeat_lora_sam.named import NAMED_WEIGHTS

    assert saw_target(NAMED_WEIGHTS["cell-tiny"].saw, ["acevedo20"])
    for saw in (DORL_SAW, BC_SAM_SAW):
        assert saw_target(saw, ["matek19"])
        assert saw_target(saw, ["acevedo20"])
    assert saw_target(DORL_SAW, ["SYSU3H"])
    assert not saw_target(BC_SAM_SAW, ["SYSU3H"])
