from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phosphene.classifier import Labels
from phosphene.errors import NotFoundError, PhospheneWarning
from phosphene.zoo.embedded import imagenet_labels

LABELS = imagenet_labels()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (281, 281),
        ("281", 281),
        (" 281 ", 281),
        ("n02123045", 281),
        ("N02123045", 281),
        ("tabby", 281),
        ("Tabby", 281),
        ("tabby cat", 281),
        ("espresso", 967),
        ("golden retr", 207),
        ("Egyptian cat", 285),
    ],
)
def test_find(query, index):
    assert LABELS.find(query) == index


@pytest.mark.parametrize(
    ("label", "index"),
    [("tench", 0), ("Tench", 0), ("golden_retriever", 207), ("n01440764", 0), ("0", 0), ("tabby cat", 281)],
)
def test_a_label_that_says_what_is_right_is_a_whole_name(label, index):
    assert LABELS.find(label, part=False) == index


@pytest.mark.parametrize("label", ["fish", "golden retr", "espress", "husky", "boa", "-", "_"])
def test_a_part_of_a_name_says_nothing_of_what_is_right(label):
    """Nor one that is all of a name of one class and a part of another's, as that of the boa made of feathers."""
    with pytest.raises(NotFoundError, match=f"class '{label}'"):
        LABELS.find(label, part=False)


def test_names_between_commas_and_names_that_differ_by_hyphens_alone():
    several = Labels(("tench, Tinca tinca", "tabby, tabby cat", "dog "))
    for label, index in (("tench", 0), ("Tinca tinca", 0), ("tabby_cat", 1), ("dog", 2), ("tench, Tinca tinca", 0)):
        assert several.find(label, part=False) == index
    alike = Labels(("a-b", "a b", "A_B", "tiger", "tiger cat"))
    assert [alike.find(name) for name in ("a-b", "a b", "A_B", "A-B", "A B", "tiger_")] == [0, 1, 2, 0, 1, 3]


def test_every_class_is_found_by_index_and_id_and_by_name_unless_two_share_it():
    shared = {name for name in LABELS.names if LABELS.names.count(name) > 1}
    assert len(shared) <= 2
    for index, name in enumerate(LABELS.names):
        assert LABELS.find(index) == LABELS.find(LABELS.ids[index]) == index
        if name not in shared:
            assert LABELS.find(name) == index, name
    for name in shared:
        with pytest.raises(NotFoundError) as caught:
            LABELS.find(name)
        listed = [index for index, other in enumerate(LABELS.names) if other == name]
        assert all(LABELS.ids[index] in str(caught.value) for index in listed)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("tabbi", "did you mean 'tabby'"),
        ("retriever", "fits several: .*golden retriever"),
        ("1000", "no class 1000"),
        (-1, "no class -1"),
        ("--1", "no class"),
        ("²", "no class"),
        ("", "a class without a name"),
        ("   ", "a class without a name"),
        ("qzxqzx", "no class 'qzxqzx'"),
    ],
)
def test_misses_are_named(query, message):
    with pytest.raises(NotFoundError, match=message):
        LABELS.find(query)


def test_of_few_classes_a_miss_names_all():
    with pytest.raises(NotFoundError, match=r"^no class 'cat'; there are beagle, wolf$"):
        Labels(("beagle", "wolf")).find("cat")


@given(st.text(max_size=20))
def test_any_text_is_a_class_or_a_clear_error(text):
    try:
        assert 0 <= LABELS.find(text) < 1000
    except NotFoundError as error:
        assert "\n" not in str(error)
    assert all(0 <= index < 1000 for index in LABELS.search(text))


def test_search_lists_what_fits_best_first():
    assert LABELS.search("281") == [281]
    assert LABELS.search("n02123045") == [281]
    assert LABELS.search("tabby")[0] == 281
    assert 207 in LABELS.search("retriever")
    assert LABELS.search("5000") == []
    assert LABELS.search("qzxqzx") == []


def test_without_names_only_numbers():
    empty = Labels()
    assert empty.find("7") == 7
    assert empty[7] == "class 7"
    assert empty.search("cat") == []
    with pytest.raises(NotFoundError, match="no class names; give an index"):
        empty.find("cat")
    with pytest.raises(NotFoundError, match="no class -1"):
        empty.find(-1)


def test_letters_within_a_word_are_taken_for_its_class_and_that_is_said():
    labels = Labels(("thunder snake", "tabby", "ladybug"))
    with pytest.warns(PhospheneWarning, match="class 'hund' is taken for thunder snake, the one class with these"):
        assert labels.find("hund") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [labels.find(text) for text in ("thunder sn", "snake", "tab", "Lady")] == [0, 0, 1, 2]
