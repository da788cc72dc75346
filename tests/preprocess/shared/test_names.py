import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from preprocess.shared.names import cell, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("café, naïve 猫 🐈 ø", "café, naïve 猫 🐈 ø"),
        ("\x1b[31mred\x07\r\n", r"\x1b[31mred\x07\r\n"),
        ("txt.\u202egpj", r"txt.\u202egpj"),  # is shown from right to left
        ("\ud800", r"\ud800"),
        ("\x9b2J", r"\x9b2J"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_a_name_is_shown_without_what_a_screen_would_obey(name: str, expected: str) -> None:
    assert shown(name) == expected


@given(st.binary(max_size=40))
def test_any_file_name_is_shown_in_utf8_and_in_one_line(name: bytes) -> None:
    text = shown(os.fsdecode(name))
    text.encode()
    assert len(text.splitlines()) <= 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)


@given(st.text(min_size=1, max_size=30))
def test_a_table_shows_every_character_of_a_name(name: str) -> None:
    table = Table(title=cell(name), width=1000)
    table.add_row(cell(name))
    out = io.StringIO()
    Console(file=out, width=1000).print(table)
    assert shown(name).rstrip() in out.getvalue()


def test_a_name_that_the_terminal_has_no_character_for_is_printed_with_an_escape() -> None:
    program = (
        "from preprocess.shared.names import print_any_character\n"
        "print_any_character(); print('caf\\u00e9 \\u732b \\udce9')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b"caf\xe9 \\u732b \\udce9\n"
