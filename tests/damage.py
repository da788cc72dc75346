"""Files that are half there, for tests of the readers: hypothesis draws what becomes of a whole one."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
"""Any value of JSON."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes of a JSON file after one of many damages: a key or a value, or bytes, are others."""
    kind = draw(st.sampled_from(["value", "value", "value", "cut", "insert", "flip", "other"]))
    place = draw(st.integers(0, max(0, len(whole) - 1)))
    if kind == "cut":
        return whole[:place]
    if kind == "insert":
        return whole[:place] + draw(st.binary(min_size=1, max_size=4)) + whole[place:]
    if kind == "flip":
        return whole[:place] + bytes([whole[place] ^ draw(st.integers(1, 255))]) + whole[place + 1 :]
    try:
        value = json.loads(whole)
    except ValueError:
        kind = "other"
    if kind == "other":
        return json.dumps(draw(VALUES)).encode()
    return json.dumps(draw(changed(value))).encode()


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A value of JSON with one key removed, or one value replaced, anywhere in it."""
    value = copy.deepcopy(value)
    above: Any = None
    at, here = None, value
    while isinstance(here, dict | list) and here and draw(st.integers(0, 5)):
        keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
        above, at = here, draw(st.sampled_from(keys))
        here = here[at]
    if above is None:
        return draw(VALUES)
    if draw(st.booleans()):
        del above[at]
    else:
        above[at] = draw(VALUES)
    return value
