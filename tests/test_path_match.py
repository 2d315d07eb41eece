"""Which file a name means: by whole ends of paths, never by the base name where folders differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phosphene.errors import InputError
from phosphene.path_match import PathMatcher, numbered, path_parts

PARTS = st.lists(st.sampled_from(["a", "b", "0", "val"]), min_size=1, max_size=4)


@given(st.lists(PARTS.map("/".join), min_size=1, max_size=8, unique=True), PARTS.map("/".join))
def test_one_is_always_the_end_of_the_other(paths, name):
    try:
        found = PathMatcher(paths).find(name)
    except InputError:
        return
    fitting = [p for p in paths if f"/{p}".endswith(f"/{name}") or f"/{name}".endswith(f"/{p}")]
    assert (found is None) == (not fitting)
    if found is not None:
        assert found in fitting
        shared = min(found.count("/"), name.count("/"))
        assert all(min(p.count("/"), name.count("/")) <= shared for p in fitting)
        if name in paths:
            assert found == name


@given(st.lists(PARTS.map("/".join), min_size=1, max_size=6, unique=True))
def test_a_table_that_names_the_paths_themselves_finds_each(paths):
    assert PathMatcher(paths).match(paths) == {path: path for path in paths}


def test_endings_count_only_where_a_file_has_them():
    matcher = PathMatcher(["x/a.png", "x/a.jpg", "y/b.png"])
    assert matcher.find("x/a.jpg") == "x/a.jpg"
    assert matcher.find("b.JPEG") == "y/b.png"
    assert matcher.find("b") == "y/b.png"
    with pytest.raises(InputError, match=r"'a' fits several files: x/a\.png, x/a\.jpg"):
        matcher.find("a")


def test_many_files_of_one_name_are_found_in_time_that_does_not_grow_with_their_square():
    paths = [f"val/{number}/0.png" for number in range(20_000)]
    assert len(PathMatcher(paths).match(path.removeprefix("val/") for path in paths)) == 20_000


def test_empty_names_fit_nothing():
    assert PathMatcher(["a.png"]).find("") is None
    assert PathMatcher([]).match(["a.png"]) == {}


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#2#2"]), max_size=12))
def test_numbered_keys_are_unique_and_do_not_depend_on_what_follows(keys):
    found = list(numbered(keys))
    assert len(set(found)) == len(keys)
    assert list(numbered(keys[:5])) == found[:5]
    assert all(one.startswith(other) for one, other in zip(found, keys, strict=True))


def test_parts_of_paths():
    assert path_parts("/a//./b/") == ("a", "b")
    assert path_parts("a\\b/c") == ("a\\b", "c")
