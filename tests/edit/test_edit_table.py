import numpy as np
import pytest

from kis_jax import factlm
from kis_jax.data.corpora import open_corpus
from kis_jax.data.facts import read_facts
from kis_jax.edit.table import EditTable, Run, markdown_table, summarize_runs
from kis_jax.passes.scores.measures import MEASURES
from kis_jax.passes.second_moments import second_moments


@pytest.fixture(scope="module")
def table(embedded):
    documents = list(open_corpus(factlm.NAME).documents())
    moments = second_moments(*embedded, documents[1:1500])
    facts = [fact for fact in read_facts(factlm.NAME, 20) if fact.case_id % 5]
    return EditTable(*embedded, facts, moments, documents[:1])


@pytest.mark.slow
def test_runs_of_two_methods_edit_the_same_facts(table):
    first, second = (table.measure(Run(m, 4, 0)) for m in ("sequential", "constrained"))
    cases = [[record["case_id"] for record in found["facts"]] for found in (first, second)]
    assert cases[0] == cases[1] and len(set(cases[0])) == 4
    other = table.measure(Run("constrained", 4, 1))
    assert [record["case_id"] for record in other["facts"]] != cases[0]
    found = summarize_runs([second, other])
    assert found["efficacy"]["mean"] >= 0.75 and found["efficacy"]["count"] == 8
    assert found["retention"]["count"] == 4
    assert 0.5 < found["perplexity"]["mean"] < 3
    lines = markdown_table([first, second, other]).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["sequential", "constrained"]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_too_many_edits_are_named(table):
    with pytest.raises(ValueError, match="num_edits: expected at most 16"):
        table.measure(Run("constrained", 17, 0))


def test_retention_is_that_of_the_earlier_half():
    record = {name: 0.0 for name in MEASURES}
    facts = [record | {"efficacy": value} for value in (1.0, 1.0, 0.0, 0.0)]
    run = {"facts": facts, "perplexity": 6.0, "perplexity_before": 3.0, "fluency": 2.0}
    found = summarize_runs([run])
    assert found["retention"]["mean"] == 1.0 and found["efficacy"]["mean"] == 0.5
    assert found["perplexity"]["mean"] == 2.0 and np.isclose(found["fluency"]["mean"], 2.0)
