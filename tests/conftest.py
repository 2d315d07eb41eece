"""What tests of several rooms share."""

from __future__ import annotations

import pytest

from tests.browsing import launched


@pytest.fixture(scope="module")
def browser():
    """A real browser, for the tests of a file: its loop would be in the way of other tests' own."""
    with launched() as found:
        yield found
