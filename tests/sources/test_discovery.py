"""A source of another package is found by its entry point; one that fails costs a warning."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from phosphene import discovery
from phosphene.errors import OptionError
from phosphene.sources import open_source, register_source, source_kinds
from phosphene.sources.source import KINDS, Source

PLUGIN = """
import torch
from phosphene.sources import Entry, Source, register_source

@register_source("grey", claims=lambda spec: spec.startswith("grey-"), looks_like="grey-LEVEL")
class Grey(Source):
    def __init__(self, spec):
        self.level = int(spec.removeprefix("grey-"))

    def entries(self):
        yield Entry(f"{self.level}.png", "nowhere", lambda: torch.full((3, 4, 4), self.level / 255))
"""


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Entry points as an installed package would bring them."""
    (tmp_path / "grey_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    monkeypatch.setattr(discovery, "entry_points", lambda group: [point for point in found if point.group == group])
    discovery.discover.cache_clear()
    discovery.load_plugins.cache_clear()
    yield found
    discovery.discover.cache_clear()
    discovery.load_plugins.cache_clear()
    KINDS.pop("grey", None)
    sys.modules.pop("grey_plugin", None)


def test_a_plugin_is_found_on_first_use(plugins):
    plugins.append(EntryPoint("grey", "grey_plugin", "phosphene.sources"))
    (item,) = open_source("grey-51")
    assert item.key == "51.png"
    assert float(item.picture.max()) == pytest.approx(0.2)


def test_a_plugin_that_fails_is_named_and_the_rest_goes_on(plugins):
    plugins.append(EntryPoint("gone", "no_such_module", "phosphene.sources"))
    with pytest.warns(UserWarning, match="plugin no_such_module for phosphene.sources cannot be imported"):
        assert {"file", "folder", "glob", "list", "table", "tar"} <= source_kinds().keys()


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(OptionError, match=r"'folder' is registered already, by phosphene\.sources\.folder"):

        @register_source("folder", claims=lambda spec: False, looks_like="nothing")
        class Mine(Source):
            pass
