"""What CONTRIBUTING promises of families: one file each, short, and named in one place."""

import importlib
import re
from pathlib import Path

import pytest

from kis_jax.models import families
from kis_jax.models.families import FAMILIES

FILES = [
    path
    for path in Path(families.__file__).parent.glob("*.py")
    if "\nFAMILY = " in path.read_text()
]


def test_every_family_has_one_file():
    names = [importlib.import_module(f"{families.__name__}.{path.stem}").FAMILY for path in FILES]
    assert sorted(family.name for family in names) == sorted(FAMILIES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_family_takes_fewer_than_80_lines(path):
    assert len(path.read_text().splitlines()) < 80


def test_models_know_no_family_by_its_name():
    for path in Path(families.__file__).parent.parent.glob("*.py"):
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text()).lower()
        for name in FAMILIES:
            assert name not in code, f"{path.name} asks for {name}"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_tied_head_has_the_name_of_the_head_and_is_not_ignored(family):
    """A copy that is ignored is never compared with the embedding."""
    heads = {row.source for row in family.weights if row.target == "head.kernel"}
    assert not heads & set(family.ignored)
    if family.tied_head is not None:
        assert heads == {family.tied_head}


def test_families_that_read_tie_word_embeddings_declare_the_copy():
    tied = {name for name, family in FAMILIES.items() if family.tied_head is not None}
    assert tied == FAMILIES.keys() - {"gptj", "bert", "roberta", "distilbert", "deberta-v2"}
