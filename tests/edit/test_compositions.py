"""A method is a composition with a name: edits, ledgers, undo and plans of all of them."""

import dataclasses

import numpy as np
import pytest

import kis_jax as kis
from kis_jax import factlm
from kis_jax.checkpoints.ledger import rule_of
from kis_jax.core.arrays.precision import HOST
from kis_jax.core.editing.recipes import recipe
from kis_jax.core.editing.replay import replay
from kis_jax.edit.closed_forms import WILD
from kis_jax.edit.methods import make_edits
from kis_jax.passes.scores.measures import evaluate
from kis_jax.passes.targets.settings import edit_settings
from kis_jax.passes.targets.values import target_values

FACTS = 24
METHODS = (
    "rlsedit+protect",
    "rlsedit+sphere",
    "alphaedit+anchor+protect",
    "sequential+anchor",
    "lyaplock",
    "evoedit",
    "betaedit",
)


@pytest.fixture(scope="module")
def layer_of_factlm():
    model, tokenizer = kis.load("factlm")
    texts = factlm.corpus_path().read_text().splitlines()[:400]
    moments = kis.second_moments(model, tokenizer, texts)
    return model, tokenizer, moments, kis.read_facts("factlm", FACTS)


@pytest.fixture(scope="module")
def case(layer_of_factlm):
    model, tokenizer, moments, facts = layer_of_factlm
    settings = edit_settings(model.config)
    made = {
        each: target_values(model, tokenizer, facts, layer=settings.layer, settings=each)
        for each in {settings.target, settings.batch_target}
    }

    def edit(method, rows=None, **options):
        together = recipe(method).base.together
        targets = made[settings.batch_target if together else settings.target]
        rows = np.arange(FACTS) if rows is None else rows
        return make_edits(
            *(model, tokenizer, [facts[row] for row in rows], moments),
            method=method,
            layers=[settings.layer],
            targets=targets[rows],
            **options,
        )

    return edit, settings, targets_length(made[settings.batch_target])


def targets_length(targets):
    return float(np.linalg.norm(targets.values, axis=1).mean())


@pytest.mark.parametrize("method", METHODS)
def test_ledger_and_undo_know_every_composition(case, method, tmp_path):
    edit, *_ = case
    made = edit(method)
    assert made.ledger.exact and made.ledger.method == recipe(method).name
    kis.save_ledger(made.ledger, tmp_path)
    again = kis.load_ledger(tmp_path)
    (layer,) = again.layers
    np.testing.assert_array_equal(
        again.layers[layer].edit.delta, made.ledger.layers[layer].edit.delta
    )
    # All rows, replayed from the file, are the same bits; and so is a part, there and back.
    own = again.layers[layer]
    anew = HOST.run(replay, own.asked, rule_of(again.method), weight=again.weight)
    np.testing.assert_array_equal(anew.directions, own.edit.directions)
    np.testing.assert_array_equal(anew.residuals, own.edit.residuals)
    rows = [row for row in range(len(again.facts)) if row not in (1, 5)]
    left = again.take(rows)
    back = left.take(list(range(len(rows))))
    np.testing.assert_array_equal(back.layers[layer].edit.delta, left.layers[layer].edit.delta)
    twice = again.take([*range(10), *range(11, len(again.facts))])
    twice = twice.take([row for row in range(len(twice.facts)) if row not in (1, 5)])
    once = again.take([row for row in range(len(again.facts)) if row not in (1, 5, 10)])
    np.testing.assert_array_equal(twice.layers[layer].edit.delta, once.layers[layer].edit.delta)


def test_what_is_protected_is_not_written_in(case):
    edit, *_ = case
    whole = edit("memit").ledger.edits.popitem()[1].delta
    for method in ("memit+protect", "memit+sphere"):
        part = edit(method).ledger.edits.popitem()[1].delta
        assert 0.02 < np.linalg.norm(whole - part) / np.linalg.norm(whole) < 0.95


def test_an_anchor_of_the_facts_own_and_one_that_is_said(case):
    edit, settings, length = case
    said = dataclasses.replace(settings, anchor=length / 4)
    made = edit("memit+anchor", settings=said)
    wild = [outcome for outcome in made.outcomes if outcome.reason == WILD]
    assert 0 < len(wild) <= FACTS
    with pytest.raises(ValueError, match="at least 20 pilot facts, found 5, too few"):
        edit("memit+anchor", np.arange(5))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("memit+alphaedit", r"expected one rule, found two .*write memit or alphaedit"),
        ("anchor+protect", r"found filters alone .*write rlsedit\+anchor\+protect"),
        ("finetune+anchor", r"anchor: expected target values .*write rlsedit\+anchor"),
        ("constrained+protect", r"protect: .*found constrained, whose values are exact.*rlsedit"),
        ("rome+sphere", r"sphere: .*found rome, whose values overwrite each other"),
        ("memit+protect+sphere", r"found both in .*write batch\+protect"),
        ("memitt", r"found 'memitt'; the nearest is memit"),
    ],
)
def test_compositions_without_sense_say_what_to_write(method, said):
    with pytest.raises(ValueError, match=said):
        recipe(method)


def test_the_same_method_has_one_name():
    assert recipe("alphaedit+protect+anchor").name == "null-space+anchor+protect"
    assert recipe("rlsedit").name == recipe("memit").name == "batch"


def test_a_null_space_that_has_shrunk_to_nothing_is_said(case):
    edit, settings, _ = case
    narrow = dataclasses.replace(settings, null_space=1e-4)
    made = edit("evoedit", settings=narrow)
    reasons = [outcome.reason or "" for outcome in made.outcomes]
    assert any("left it nothing of the null space" in reason for reason in reasons)
    assert not reasons[0]


@pytest.mark.parametrize("method", ["ultraedit", "stableedit"])
def test_gradients_write_without_a_search_and_their_parts_are_not_undone(layer_of_factlm, method):
    model, tokenizer, moments, facts = layer_of_factlm
    made = make_edits(model, tokenizer, facts, moments, method=method)
    assert made.ledger.method == method and not made.ledger.exact
    assert made.ledger.settings == {"gradient_step": 3.0, "gradient_ridge": 0.1}
    after = evaluate(made.model, tokenizer, facts).summary()
    assert after["efficacy"]["mean"] > 0.3 and after["neighborhood"]["mean"] > 0.7
    with pytest.raises(ValueError, match=f"as {method} moves all facts at once"):
        made.ledger.take([0])
    with pytest.raises(ValueError, match=f"expected edits in closed form, found {method}"):
        made.ledger.merge(made.ledger)


@pytest.mark.parametrize("method", ["rlsedit", "alphaedit", "evoedit", "rlsedit+protect"])
def test_ten_answers_leave_the_last_and_an_update_no_longer_than_its_own(layer_of_factlm, method):
    model, tokenizer, moments, facts = layer_of_factlm
    settings = edit_settings(model.config)
    answers = list(dict.fromkeys(fact.target_new for fact in facts[3:]))[:10]
    asked = [*facts[:3], *(dataclasses.replace(facts[0], target_new=each) for each in answers)]
    targets = target_values(
        model, tokenizer, asked, layer=settings.layer, settings=settings.batch_target
    )

    def ledger(rows):
        made = make_edits(
            *(model, tokenizer, [asked[row] for row in rows], moments),
            method=method,
            layers=[settings.layer],
            targets=targets[np.array(rows)],
        ).ledger
        return made if made.weight is None else dataclasses.replace(made, weight=weight)

    def norm(of):
        return np.linalg.norm(of.layers[settings.layer].edit.delta)

    weight = 1.0  # one for all, where each ledger has that of its own facts
    whole = ledger([0, 1, 2])
    for row in range(3, len(asked)):
        whole = whole.replace(ledger([row]))
        alone = ledger([1, 2]).merge(ledger([row]))
        assert [fact.target for fact in whole.facts[-1:]] == [asked[row].target_new]
        np.testing.assert_allclose(norm(whole), norm(alone), rtol=1e-12)  # whatever came before
    assert whole.facts[-1].replaces == (facts[0].target_new, *answers[:-1])
    found = evaluate(kis.edited(model, whole.edits), tokenizer, asked[-1:])
    assert found.efficacy_accuracy[0] == 1
