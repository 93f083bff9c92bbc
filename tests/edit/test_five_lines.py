"""From facts to a scored edited model, by public names alone."""

import kis_jax as kis
from kis_jax import factlm


def test_five_lines_of_python_from_facts_to_a_scored_edited_model():
    model, tokenizer = kis.load("factlm")
    facts = kis.read_facts("factlm", 2)
    text = factlm.corpus_path().read_text().splitlines()[:200]
    moments = kis.second_moments(model, tokenizer, text)
    made = kis.make_edits(model, tokenizer, facts, moments)
    found = kis.evaluate(made.model, tokenizer, facts)
    assert isinstance(found, kis.Evaluation)
    assert found.efficacy.tolist() == [1, 1]
    assert kis.evaluate(model, tokenizer, facts).efficacy.tolist() == [0, 0]
    assert made.ledger.settings["target"]["steps"] == kis.edit_settings(model.config).target.steps
