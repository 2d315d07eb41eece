from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phosphene.errors import NotFoundError, OptionError
from phosphene.registry import (
    Spec,
    entries,
    entry,
    format_spec,
    make_spec,
    methods,
    parse_spec,
    register_attribution,
    unregister,
)


@pytest.fixture(autouse=True, scope="module")
def _methods():
    """A method with an option of every type, and one that wraps another."""

    @register_attribution(title="All types", family="gradient", paper="none2026")
    def every_type(
        classifier,
        images,
        target,
        *,
        count: int = 3,
        amount: float = 0.5,
        flag: bool = False,
        kind: Literal["one", "two"] = "one",
        crops: Literal[1, 10] = 1,
        window: tuple[int, int] = (32, 32),
        scales: tuple[float, ...] = (1.0,),
        layer: str | None = None,
        layers: tuple[str, ...] = (),
        limit: int | None = None,
        batch_size: int | None = None,
    ): ...

    @register_attribution(title="Wrapper", family="gradient", paper="none2026")
    def wrapper(classifier, images, target, *, inner: str = "every_type", samples: int = 8): ...

    yield
    unregister("attribution", "every_type")
    unregister("attribution", "wrapper")


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", fullmatch=True).filter(lambda s: s.lower() != "none")
options = {
    "count": st.integers(),
    "amount": st.floats(allow_nan=False),
    "flag": st.booleans(),
    "kind": st.sampled_from(["one", "two"]),
    "crops": st.sampled_from([1, 10]),
    "window": st.tuples(st.integers(), st.integers()),
    "scales": st.lists(st.floats(allow_nan=False), min_size=1, max_size=4).map(tuple),
    "layer": st.none() | names,
    "layers": st.lists(names, max_size=3).map(tuple),
    "limit": st.none() | st.integers(),
}
flat = st.fixed_dictionaries({}, optional=options).map(lambda values: make_spec("every_type", **values))
nested = st.recursive(
    flat,
    lambda inner: st.builds(
        lambda spec, samples: make_spec("wrapper", inner=format_spec(spec), samples=samples), inner, st.integers(1, 99)
    ),
    max_leaves=3,
)


@given(nested)
def test_parse_is_the_inverse_of_format(spec):
    assert parse_spec(format_spec(spec)) == spec
    assert format_spec(parse_spec(format_spec(spec))) == format_spec(spec)


@given(st.text(max_size=40))
def test_any_text_is_a_spec_or_a_clear_error(text):
    try:
        parse_spec(text)
    except OptionError as error:
        assert str(error)
        assert "\n" not in str(error)


@given(
    st.sampled_from(["every_type", "wrapper", "every_type:", "wrapper(every_type)"]),
    st.text(":=,()x+ 01abnoe.-", max_size=25),
)
def test_text_after_a_name_is_a_spec_or_a_clear_error(name, text):
    try:
        spec = parse_spec(name + text)
    except OptionError as error:
        assert str(error)
    else:
        assert parse_spec(format_spec(spec)) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("every_type", Spec("every_type")),
        (" every_type : count = 4 ", Spec("every_type", (("count", 4),))),
        ("every_type:count=3", Spec("every_type")),
        ("every_type:window=10", Spec("every_type", (("window", (10, 10)),))),
        ("every_type:window=10x20,flag=true", Spec("every_type", (("flag", True), ("window", (10, 20))))),
        ("every_type:layer=blocks.3,limit=none", Spec("every_type", (("layer", "blocks.3"),))),
        ("wrapper(every_type:count=5):samples=2", Spec("wrapper", (("inner", "every_type:count=5"), ("samples", 2)))),
        ("wrapper(wrapper(every_type:window=1x2))", None),
    ],
)
def test_spellings(text, expected):
    got = parse_spec(text)
    assert expected is None or got == expected
    assert parse_spec(str(got)) == got


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("every_tpye", "did you mean 'every_type'"),
        ("", "no attribution method ''"),
        ("every_type:cuont=3", "no option 'cuont'; did you mean 'count'"),
        ("every_type:count", "option 'count' has no value; write count=VALUE"),
        ("every_type:count=three", "'three' is not a whole number"),
        ("every_type:count=1.5", "'1.5' is not a whole number"),
        ("every_type:amount=much", "'much' is not a number"),
        ("every_type:flag=maybe", "'maybe' is not one of true, false"),
        ("every_type:kind=three", "'three' is not one of one, two"),
        ("every_type:window=1x2x3", "has 3 values, not 2"),
        ("every_type:count=1,count=2", "given twice"),
        ("every_type(saliency)", "wraps no other method"),
        ("wrapper(every_type", "brackets do not match"),
        ("wrapper(nothing)", "no attribution method 'nothing'"),
        ("every_type:batch_size=3", "no option 'batch_size'"),
        ("every_type:count=", "'' is not a whole number"),
    ],
)
def test_errors_name_what_was_got_and_what_is_possible(text, message):
    with pytest.raises(OptionError, match=message):
        parse_spec(text)


def test_entries_and_their_options():
    found = entry("attribution", "every_type")
    assert list(found.options)[:3] == ["count", "amount", "flag"]
    assert "batch_size" not in found.options
    assert found.accepts("batch_size")
    assert list(entries("attribution")) == sorted(entries("attribution"))
    with pytest.raises(NotFoundError, match="there are"):
        entry("attribution", "nothing")


def test_a_name_is_taken_once():
    def other():
        @register_attribution(title="Twin", family="gradient", paper="none2026")
        def every_type(classifier, images, target): ...

        return every_type

    found = entry("attribution", "every_type")
    other()  # the same module may define it anew (interactive work)
    assert entry("attribution", "every_type").title == "Twin"
    from phosphene import registry

    registry._ENTRIES["attribution", "every_type"] = found


def test_not_a_number_is_no_option():
    with pytest.raises(OptionError, match="not a number"):
        parse_spec("every_type:amount=nan")
    assert parse_spec("every_type:amount=inf").keywords["amount"] == math.inf


def test_a_name_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match="no attribution method 'rize'; did you mean 'rise'"):
        methods()["rize"]
    with pytest.raises(NotFoundError, match="no recipe 'lemon'"):
        parse_spec("lemon", "recipe")
    assert "rize" not in methods()


def test_an_entry_as_methods_lists_it_is_its_method():
    listed = entries("attribution")["grad_cam"]
    assert parse_spec(listed) == Spec("grad_cam")
    assert str(listed) == "grad_cam"
