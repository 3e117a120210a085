"""Messages that a user can act on."""

from __future__ import annotations

import pytest

from cellfeat.errors import CellfeatError, UnseenDomainError, unknown


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all():
    assert unknown("align", "cea", ["none", "cae"]) == "no align named 'cea'. Did you mean 'cae'? Available: cae, none"


def test_nothing_is_guessed_when_nothing_is_near():
    assert unknown("align", "zzz", ["cae", "none"]) == "no align named 'zzz'. Available: cae, none"


def test_two_near_names_are_both_named_the_nearest_first():
    message = unknown("classifier", "svm-liner", ["svm-linear", "svm-line", "rf"])
    assert "Did you mean 'svm-linear' or 'svm-line'?" in message


@pytest.mark.parametrize("got", ["CAE", "Cea"])
def test_case_does_not_hide_the_nearest_name(got):
    assert "Did you mean 'cae'?" in unknown("align", got, ["cae", "none"])
    assert "Did you mean 'CAE'?" in unknown("align", got.lower(), ["CAE", "none"])


def test_no_choices_are_said_to_be_nothing():
    assert unknown("segmenter", "otsu", []) == "no segmenter named 'otsu'. Available: nothing"


def test_the_remedy_ends_the_message():
    assert unknown("recipe", "x", ["demo"], "Or give a file").endswith("Available: demo. Or give a file")


def test_an_unseen_domain_is_a_users_error_that_names_it_and_what_to_do():
    error = UnseenDomainError("coral", ["new", "lab", "new"], ["b", "a", "b"])
    assert isinstance(error, CellfeatError)
    assert error.unseen == ["lab", "new"]
    assert str(error) == (
        "align 'coral' cannot place the new domain 'lab', 'new'; it was fitted on a, b. Fit it with the new domain "
        "among the adapted ones (run: --adapt test or heldout; predict, transform and smear: --refit; in Python: "
        "target= or refit)"
    )
