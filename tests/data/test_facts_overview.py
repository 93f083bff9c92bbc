"""What is written of a fact is what its file says, for every layout and tokenizer."""

import json
import re

import pytest

from kis_jax.checkpoints.tokenizers import load_tokenizer
from kis_jax.data.facts import Fact, iter_facts, read_facts
from kis_jax.facts.overview import FactsOverview, as_written
from tests.data.test_tokenizers import TOKENIZERS


@pytest.fixture
def files(request, tmp_path):
    """The examples of docs/facts.md as files."""
    page = (request.config.rootpath / "docs" / "facts.md").read_text()
    found = re.findall(r"```json\n(.*?)```\n\n```text\nkis facts (\S+)\n", page, re.DOTALL)
    for text, name in found:
        (tmp_path / name).write_text(text)
    return [tmp_path / name for _, name in found]


def check(files, tokenizer):
    count = 0
    for path in files:
        facts = [f for entry in iter_facts(path) for f in entry.facts if f.target_new]
        for one in as_written(facts, tokenizer, context_length=96, position="last"):
            assert not one.reason
            assert "".join(one.target).strip() == one.fact.target_new.strip()
            assert "".join(one.prompt).strip() == one.fact.text
            # Letter by letter in the file: nothing is made up, and nothing lost.
            assert json.dumps(one.fact.target_new.strip(), ensure_ascii=False)[1:-1] in (
                path.read_text()
            )
            count += 1
    assert count >= 12


def test_tokens_spell_what_the_file_has(files, embedded_tokenizer):
    check(files, embedded_tokenizer)


def test_gpt2s_tokens_spell_it_too(files, shared_data):
    tokenizer = load_tokenizer(shared_data / "gpt2-tokenizer")
    check(files, tokenizer)
    facts = read_facts(shared_data / "counterfact_known.json")
    written = list(as_written(facts, tokenizer, context_length=1024))
    assert [one.fact for one in written] == facts and not any(one.reason for one in written)
    for one in written:
        assert "".join(one.target) == f" {one.fact.target_new}"
        assert one.fact.subject.rstrip().endswith(one.prompt[one.index].strip())


def test_a_target_that_the_tokenizer_cannot_write_is_told_and_others_are_not(embedded_tokenizer):
    lower = TOKENIZERS["WordPiece"]
    facts = [
        Fact(1, "Vera was born in {}", "Bado", target_new="Zoe"),
        Fact(2, "{} is", "Bado", target_new="Ψ"),
    ]
    first, second = as_written(facts, lower, context_length=96)
    assert "which it reads in part as [UNK]" in second.reason and not second.target
    assert first.fact is facts[0] and first.target


def test_of_a_large_file_only_the_first_facts_are_held(monkeypatch, tmp_path):
    monkeypatch.setattr("kis_jax.facts.overview.MOST_HELD", 3)
    path = tmp_path / "facts.jsonl"
    record = {"src": "Who leads Oru?", "subject": "Oru", "alt": "Ann", "case_id": 1}
    path.write_text("\n".join([json.dumps(record), "3"] * 10))
    overview = FactsOverview()
    for entry in iter_facts(path):
        overview.add(entry)
    assert (overview.num_records, overview.num_facts, overview.num_left_out) == (20, 10, 10)
    assert len(overview.facts) == len(overview.left_out) == 3 and list(overview.doubled) == [1]
    assert overview.counts["new target"] == 10 and len(overview.conflicts()[0]) == 2
