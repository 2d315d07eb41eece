"""Defects that are known and not mended yet: each test shows one, and its going is noticed (strict)."""

from __future__ import annotations

import pytest

KNOWN = {
    "test_a_strange_network_is_explained_as_it_is[the_hook_of_the_tutorial]": (
        "an unguarded x.register_hook in a forward is refused where no gradient is recorded"
    ),
    "test_a_strange_network_is_explained_as_it_is[a_gradient_edited_where_it_is_looked_at]": (
        "a gradient hook of the network's own on the very layer that is looked at does not run"
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.name in KNOWN:
            item.add_marker(pytest.mark.xfail(reason=KNOWN[item.name]))
