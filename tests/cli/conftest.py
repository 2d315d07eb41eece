from __future__ import annotations

from functools import cache

import pytest

from phosphene.zoo import embedded, load


@pytest.fixture(autouse=True, scope="session")
def _one_embedded_classifier():
    """The embedded classifier is read and prepared once for all commands in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.SOURCES, "embedded", cache(embedded.load))
        yield
