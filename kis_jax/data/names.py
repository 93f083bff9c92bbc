"""Names in running text: where one stands, and where a language puts blanks between words."""

from __future__ import annotations

import re
import unicodedata

# Thai, Lao, Tibetan, Myanmar, Khmer; kana, Han and their full-width marks: written without blanks.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_ALIKE = str.maketrans(
    "\u2018\u2019\u201a\u201b\u0060\u00b4\u02bc\u201c\u201d\u201e\u201f\u00ab\u00bb"
    "\u2010\u2011\u2012\u2013\u2014\u2212",
    "'" * 7 + '"' * 6 + "-" * 6,
)
_SHORTEST_WITH_GENITIVE = 4


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that puts no blanks between words, such as Chinese.

    Examples:
      >>> is_unspaced("京"), is_unspaced("k"), is_unspaced("서")
      (True, False, False)
    """
    return _UNSPACED.match(character) is not None


def find_name(text: str, name: str) -> tuple[int, int] | None:
    """Where a text holds a name: its first character, and the one after its last.

    As it is written, in whole words; else with case, kinds of quotes and dashes, blanks and
    composed letters alike; else with the "s" of a genitive after it. A name inside of another
    word is none: "part" does not hold "art". Scripts without blanks between words have no such
    bounds, and Korean puts its particles right after a name.

    Returns:
      The first place, None if there is no such one.

    Examples:
      >>> find_name("Part of the art", "art"), find_name("Who leads the D’Oyly troupe?", "d'oyly")
      ((12, 15), (14, 20))
    """
    found = _whole(text, name)
    if found is None and name.strip():
        folded, places = _folded(text)
        wanted = _folded(name.strip())[0]
        found = _whole(folded, wanted) or _whole(folded, wanted, ending="s")
        if found is not None:
            found = places[found[0]], places[found[1] - 1] + 1
            while found[1] < len(text) and unicodedata.combining(text[found[1]]):
                found = found[0], found[1] + 1
    return found


def _whole(text: str, name: str, ending: str = "") -> tuple[int, int] | None:
    """The first place of a name that neither begins nor ends within a word."""
    if ending and (len(name) < _SHORTEST_WITH_GENITIVE or not name[-1:].isalpha()):
        return None
    start = text.find(name + ending) if name else -1
    while start >= 0:
        end = start + len(name) + len(ending)
        if not (
            _one_word(text[start - 1 : start], name[0])
            or _one_word((ending or name)[-1], text[end : end + 1], particles=True)
        ):
            return start, start + len(name)
        start = text.find(name + ending, start + 1)
    return None


def _one_word(before: str, after: str, *, particles: bool = False) -> bool:
    """Whether two characters beside each other are of one word."""
    if not (_in_word(before) and _in_word(after)):
        return False
    korean = particles and _HANGUL.match(before)
    return not (is_unspaced(before) or is_unspaced(after) or korean)


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or bool(unicodedata.combining(character or " "))


def _folded(text: str) -> tuple[str, list[int]]:
    """A text with what is alike made the same; for each of its characters its place before."""
    folded: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        plain = " " if character.isspace() else character.translate(_ALIKE)
        for part in unicodedata.normalize("NFD", plain).casefold():
            if part == " " and folded[-1:] == [" "]:
                continue
            folded.append(part)
            places.append(place)
    return "".join(folded), places
