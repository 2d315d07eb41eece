"""What tests of several rooms share."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

from tests.browsing import launched

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Half a million objects of libraries and of the tests themselves stay for good: none is looked at any more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser():
    """A real browser, for the tests of a file: its loop would be in the way of other tests' own."""
    with launched() as found:
        yield found
