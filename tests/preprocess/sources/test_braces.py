"""Braces in names are expanded as the package braceexpand does, which webdataset uses."""

from itertools import islice

import pytest
from braceexpand import braceexpand

from preprocess.sources.braces import expand, has_braces


@pytest.mark.parametrize(
    "text",
    [
        "train-{0000..0003}.tar",
        "train-{0..11}.tar",
        "{train,val}-{00..2}.tar",
        "a/{train-{0..2},val-{08..10}}.tar",
        "{3..1}",
        "{5..05}",
        "{,x}a{1,2}",
        "{{1,2}}",
        "{a{1,2}}",
        "a{b}{c,d}",
    ],
)
def test_braces_stand_for_what_braceexpand_makes_of_them(text: str) -> None:
    assert list(expand(text)) == list(braceexpand(text))
    assert has_braces(text)


@pytest.mark.parametrize("text", ["", "train-0000.tar", "{a}", "a{}b", "{0..1", "0..1}", "{a..1}"])
def test_other_texts_stand_for_themselves(text: str) -> None:
    assert list(expand(text)) == [text]
    assert not has_braces(text)


def test_very_many_names_are_made_one_by_one() -> None:
    assert list(islice(expand("{0..99999999999}" * 3), 2)) == ["000", "001"]
