"""The checks of alignment methods, in the order in which they are made: what others rest on comes first."""

from __future__ import annotations

from cellfeat.testing.align_answers import ANSWERS
from cellfeat.testing.align_fits import FITS
from cellfeat.testing.align_form import FORM
from cellfeat.testing.align_hard import HARD
from cellfeat.testing.align_optional import OPTIONAL
from cellfeat.testing.align_process import PROCESS
from cellfeat.testing.align_resume import RESUME
from cellfeat.testing.align_saving import SAVING
from cellfeat.testing.align_subject import AlignSubject
from cellfeat.testing.checks import Check

CHECKS: tuple[Check, ...] = (*FORM, *OPTIONAL, *PROCESS, *ANSWERS, *SAVING, *FITS, *HARD, *RESUME)
SUBJECT = AlignSubject
