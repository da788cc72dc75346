"""The sentence for each JSON file that is not as it must be, and the value of one that is."""

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.shared import json_files
from preprocess.shared.json_files import JsonError, MissingError


class Settings(TypedDict, total=False):
    rate: float | None


class Kind(Settings):
    step: int
    names: list[str]
    inner: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Made:
    on: bool
    pair: tuple[int, float]
    kind: Literal[1, 2, "three"] = 1
    place: Path | None = None
    rest: list[Any] = field(default_factory=list)


WHOLE = {"step": 3, "names": ["a"], "inner": {"x": [1, 2]}, "rate": 0.5, "more": None}


def read(path: Path, content: bytes) -> Any:
    path.write_bytes(content)
    return json_files.read(path, Kind, "state.json")


def test_an_object_is_read_and_further_keys_are_kept(tmp_path: Path) -> None:
    found = read(tmp_path / "file", json.dumps(WHOLE).encode())
    assert found == WHOLE | {"inner": {"x": (1, 2)}}


@pytest.mark.parametrize(
    ("content", "clause"),
    [
        (b"", "state.json is not JSON"),
        (b'{"step": 3', "state.json is not JSON"),
        (b'{"step": NaN}', "state.json is not JSON"),
        (b'{"step": -Infinity}', "state.json is not JSON"),
        (b"\xff\xfe{}", "state.json is not UTF-8 text"),
        (b"[" * 200_000, "state.json is nested too deeply"),
        (b'{"step": ' * 200_000, "state.json is nested too deeply"),
        (b"[]", "state.json is not an object"),
        (b"null", "state.json is not an object"),
        (b"3", "state.json is not an object"),
        (b"{}", "state.json has no inner"),
    ],
)
def test_a_file_without_the_object_has_a_clause(content: bytes, clause: str, tmp_path: Path) -> None:
    with pytest.raises(JsonError) as error:
        read(tmp_path / "file", content)
    assert str(error.value) == clause


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"step": "3"}, 'has step = "3", which is not a whole number'),
        ({"step": True}, "has step = true, which is not a whole number"),
        ({"step": 3.0}, "has step = 3.0, which is not a whole number"),
        ({"step": 10**60}, f"has step = 1{'0' * 39}..., which is not a whole number"),
        ({"names": "a"}, 'has names = "a", which is not a list of text'),
        ({"names": ["a", []]}, "has names = a list, which is not text"),
        ({"rate": []}, "has rate = a list, which is not a number or null"),
        ({"inner": {"x": {}}}, "has inner.x = an object, which is not a list of whole numbers"),
    ],
)
def test_a_value_of_another_kind_is_named(changes: dict[str, Any], clause: str, tmp_path: Path) -> None:
    with pytest.raises(JsonError) as error:
        read(tmp_path / "file", json.dumps(WHOLE | changes).encode())
    assert str(error.value) == f"state.json {clause}"


def test_a_number_beyond_all_floats_is_no_number() -> None:
    with pytest.raises(JsonError, match="which is not a number or null"):
        json_files.parse('{"step": 1, "names": [], "inner": {}, "rate": 1e999}', Kind, "text")


def test_a_file_that_cannot_be_read_has_a_clause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match=f"^{tmp_path}/none is missing$"):
        json_files.read(tmp_path / "none", Kind)
    with pytest.raises(JsonError, match=f"^{tmp_path} is a folder, not a file$"):
        json_files.read(tmp_path, Kind)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(JsonError, match=r"^it cannot be read \(Permission denied\)$"):
        json_files.read(tmp_path, Kind, "it")


def test_a_dataclass_is_made_of_an_object_and_refuses_further_keys() -> None:
    found = json_files.convert({"on": True, "pair": [1, 2], "place": "a/b"}, Made, "it")
    assert found == Made(True, (1, 2), 1, Path("a/b"), [])
    for changes, clause in (
        ({"other": 1}, "it has an unknown key: other"),
        ({"kind": True}, 'it has kind = true, which is not 1 or 2 or "three"'),
        ({"pair": [1]}, "it has pair = a list, which is not a list of whole numbers"),
        ({"on": 1}, "it has on = 1, which is not true or false"),
    ):
        with pytest.raises(JsonError) as error:
            json_files.convert({"on": True, "pair": [1, 2]} | changes, Made, "it")
        assert str(error.value) == clause


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(VALUES, st.sampled_from([Kind, Made, dict[str, int], list[int], Path, Kind | None, Any]))
def test_any_value_is_converted_or_refused(value: Any, kind: Any) -> None:
    with contextlib.suppress(JsonError):
        json_files.parse(json.dumps(value), kind, "it")


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(JsonError, match=r"^it "):
        json_files.parse(data, Kind, "it")
