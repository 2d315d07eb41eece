"""Questions and their addresses: each opens again as it was, and what cannot be read is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phosphene.errors import OptionError
from phosphene.web.asks import (
    ASKS,
    TABS,
    AuditAsk,
    CompareAsk,
    ExplainAsk,
    LayerAsk,
    LocateAsk,
    RememberAsk,
    file_word,
    read,
)

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(
    st.one_of(
        st.builds(
            ExplainAsk, TEXT, TEXT, st.tuples(TEXT, TEXT), TEXT, TEXT, TEXT, TEXT, st.sampled_from([None, (0.25, 0.5)])
        ),
        st.builds(LocateAsk, TEXT, TEXT, TEXT, st.tuples(TEXT), TEXT, TEXT),
        st.builds(
            RememberAsk, TEXT, TEXT, st.tuples(TEXT, TEXT), st.booleans(), TEXT, TEXT, st.integers(), st.integers()
        ),
        st.builds(LayerAsk, TEXT, TEXT, TEXT, TEXT, st.integers(), st.integers(), st.integers(), st.integers()),
        st.builds(CompareAsk, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT),
        st.builds(AuditAsk, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, st.integers()),
    )
)
def test_an_address_opens_the_same_question(ask):
    assert read(ask.address()) == ask


def test_every_view_has_an_address():
    assert tuple(ASKS) == TABS
    assert [read(f"?tab={tab}").tab for tab in TABS] == list(TABS)
    assert read("") == ExplainAsk()


@pytest.mark.parametrize(
    "search",
    [
        "?tab=nowhere",
        "?at=2x0.5",
        "?at=nan",
        "?at=1",
        "?tab=layer&count=many",
        "?" + "&".join(f"a{n}=1" for n in range(99)),
    ],
)
def test_what_an_address_cannot_say_is_refused(search):
    with pytest.raises(OptionError):
        read(search)


def test_no_file_name_becomes_an_option_or_more_words():
    assert file_word("--out=x.png") == "./--out=x.png"
    assert LocateAsk("a b; rm -rf c.png").command() == "phosphene locate 'a b; rm -rf c.png'"
    assert "'a\\'); import os #.png'" in ExplainAsk("a'); import os #.png").python("embedded", [1]) or (
        '"a\'); import os #.png"' in ExplainAsk("a'); import os #.png").python("embedded", [1])
    )
