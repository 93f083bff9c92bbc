"""Names in running text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kis_jax.data.names import find_name


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("Who drew the art of Keld?", "art", "art"),
        ("Who drew a part of the art?", "art", "art"),
        ("Who drew a part?", "art", None),
        ("Which company made D&RGW 463?", "Rio Grande 463", None),
        ("Who leads the D\u2019Oyly Carte?", "D'Oyly Carte", "D\u2019Oyly Carte"),
        ('Who wrote "Nord\u2013Süd"?', "nord-süd", "Nord\u2013Süd"),
        ("Who is  great\u00a0 keld?", "Great Keld", "great\u00a0 keld"),
        ("Wo liegt Beethovens Geburtshaus?", "Beethoven", "Beethoven"),
        ("Is Romeo of Verona?", "Rome", None),
        ("Who is Anna?", "Ann", None),
        ("Wie hoch ist der Fels?", "Fel", None),
        (
            "ใครคือประยุทธ์",
            "ประยุทธ์",
            "ประยุทธ์",
        ),
        ("日本的首都是", "日本", "日本"),
        ("서울의 시장은", "서울", "서울"),
        ("남서울의 시장은", "서울", None),
        (
            "Столица Москвы",
            "Москва",
            None,
        ),
        (
            "Где МОСКВА?",
            "Москва",
            "МОСКВА",
        ),
        ("Who is Zoe\u0301?", "Zoé", "Zoe\u0301"),
        ("Where is the Straße?", "STRASSE", "Straße"),
        ("Who?", "", None),
    ],
)
def test_names_are_found_in_whole_words(text, name, found):
    place = find_name(text, name)
    assert (None if place is None else text[slice(*place)]) == found


@given(st.text(), st.text(min_size=1).filter(str.strip), st.text())
def test_a_name_that_stands_by_itself_is_found(before, name, after):
    text = f"{before} {name} {after}"
    start, end = find_name(text, name)
    assert text[start:end] == name and start <= len(before) + 1
