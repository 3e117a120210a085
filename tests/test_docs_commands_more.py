"""Every command of README and docs runs, in the order of its page, on drawn data: the other half of the pages."""

from __future__ import annotations

import pytest
from docs_commands import named, pages_to_run, preparing, run_page

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    with preparing(tmp_path_factory.mktemp("prepared")) as found:
        yield found


@pytest.mark.parametrize("page", pages_to_run(1), ids=named)
def test_the_commands_of_a_page_run_in_their_order(page, prepared, tmp_path):
    run_page(page, prepared, tmp_path / "work")
