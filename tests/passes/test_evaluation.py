import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kis_jax import factlm
from kis_jax.data.facts import Fact, read_facts
from kis_jax.data.layout_values import MULTI_HOP, Question
from kis_jax.passes.scores import measures as evaluation
from kis_jax.passes.scores.measures import KINDS, MEASURES, evaluate
from kis_jax.passes.scores.scoring import Scores

# Two facts. Of each text log p of its target, and whether greedy decoding gives it.
TABLE = {
    "A is new": (0.5, True),
    "A is true": (0.25, False),
    "so A is new": (0.1, False),
    "so A is true": (0.3, False),
    "thus A is new": (0.6, True),
    "thus A is true": (0.2, False),
    "B is new": (0.2, False),
    "B is true": (0.7, True),
    "C is new": (0.4, True),
    "C is true": (0.1, False),
    "D is other": (0.05, False),
    "D is actual": (0.15, True),
    "E is other": (0.3, False),
    "E is own": (0.2, False),
    "F is good": (0.1, False),
    "F is fine": (0.2, True),
    "so F is good": (0.1, False),
    "so F is fine": (0.1, False),
    "G is good": (0.3, False),
    "H is good": (0.3, True),
}
FACTS = [
    Fact(
        7,
        "{} is",
        "A",
        target_true="true",
        target_new="new",
        paraphrase_prompts=("so A is", "thus A is"),
        neighborhood_prompts=("B is", "C is"),
    ),
    Fact(
        9,
        "{} is",
        "D",
        target_true="actual",
        target_new="other",
        neighborhood_prompts=("E is",),
        neighborhood_targets=("own",),
        portability=(
            Question("Reasoning", ("so F is", "F is"), ("good", "fine")),
            Question("one-hop", ("G is",), ("good",)),
            Question(MULTI_HOP, ("G is", "H is"), ("good",)),
        ),
    ),
]
EXPECTED = {
    "efficacy": (1, 0),
    "paraphrase": (1 / 2, np.nan),
    "neighborhood": (1 / 2, 0),
    "efficacy_magnitude": (0.25, -0.1),
    "paraphrase_magnitude": ((-0.2 + 0.4) / 2, np.nan),
    "neighborhood_magnitude": ((0.5 - 0.3) / 2, -0.1),
    "efficacy_accuracy": (1, 0),
    "paraphrase_accuracy": (1 / 2, np.nan),
    "neighborhood_accuracy": (1 / 2, 0),
    "portability_accuracy": (np.nan, 1 / 2),
    "multi_hop_accuracy": (np.nan, 1),
}


@pytest.fixture
def by_hand(embedded, monkeypatch):
    model, tokenizer = embedded

    def score(model, continuations, *, token_budget):
        found = [TABLE[tokenizer.decode(one.tokens)] for one in continuations]
        return Scores(
            np.log([p for p, _ in found]), np.array([r for _, r in found]), np.ones(len(found), int)
        )

    monkeypatch.setattr(evaluation, "score", score)
    return evaluate(model, tokenizer, FACTS)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_by_hand(by_hand, name):
    np.testing.assert_allclose(getattr(by_hand, name), EXPECTED[name], atol=1e-12)


def test_the_summary_by_hand(by_hand):
    found = by_hand.summary()
    for name in MEASURES:
        assert found[name]["mean"] == pytest.approx(np.nanmean(EXPECTED[name]))
        assert found[name]["count"] == np.isfinite(EXPECTED[name]).sum()
        assert found[name]["low"] <= found[name]["mean"] <= found[name]["high"]
    # Harmonic mean of 1/2, 1/2 and 1/4.
    assert found["score"]["mean"] == pytest.approx(3 / (2 + 2 + 4))


def test_records_are_plain_json(by_hand):
    first, second = json.loads(json.dumps(by_hand.records(), allow_nan=False))
    assert first["case_id"] == 7 and second["case_id"] == 9
    assert second["paraphrase"] is None and first["efficacy_magnitude"] == pytest.approx(0.25)
    assert set(first) == {"case_id", *MEASURES}


def slowly(logits_of, tokenizer, facts):
    """Prompt by prompt, target by target, token by token."""
    rows = []
    for fact in facts:
        asked = {
            "efficacy": [fact.text],
            "paraphrase": fact.paraphrase_prompts,
            "neighborhood": fact.neighborhood_prompts,
        }
        row = {}
        for kind, prompts in asked.items():
            outcomes = []
            for prompt in prompts:
                p, leads = {}, {}
                for name, target in (("new", fact.target_new), ("true", fact.target_true)):
                    before = tokenizer(prompt)["input_ids"]
                    after = tokenizer(f" {target}")["input_ids"]
                    logits = logits_of([*before, *after])
                    logits = logits[len(before) - 1 : -1].astype(np.float64)
                    of_tokens = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
                    logs = [of_tokens[i, token] for i, token in enumerate(after)]
                    p[name] = np.exp(np.mean(logs))
                    leads[name] = all(logits.argmax(axis=1) == after)
                wins, loses = ("true", "new") if kind == "neighborhood" else ("new", "true")
                outcomes.append((p[wins] > p[loses], p[wins] - p[loses], leads[wins]))
            for name, values in zip(
                ("", "_magnitude", "_accuracy"), zip(*outcomes, strict=True), strict=True
            ):
                row[kind + name] = np.mean(values)
        rows.append(row)
    return rows


def assert_equal(found, rows):
    for name in rows[0]:
        np.testing.assert_allclose(getattr(found, name), [r[name] for r in rows], atol=1e-5)
    assert set(MEASURES) - set(rows[0]) == {"portability_accuracy", "multi_hop_accuracy"}


def test_equals_one_prompt_at_a_time(embedded):
    model, tokenizer = embedded
    # The two targets exchanged for half of them, so that not all go one way.
    facts = [
        fact
        if fact.case_id % 2
        else dataclasses.replace(fact, target_new=fact.target_true, target_true=fact.target_new)
        for fact in read_facts(factlm.NAME, 6)
    ]
    facts = [
        dataclasses.replace(fact, neighborhood_prompts=fact.neighborhood_prompts[:3])
        for fact in facts
    ]

    def logits_of(tokens):
        padded = np.array([tokens + [0] * (24 - len(tokens))])
        return np.asarray(run(model, jnp.asarray(padded)))[0, : len(tokens)]

    found = evaluate(model, tokenizer, facts, token_budget=200)
    assert_equal(found, slowly(logits_of, tokenizer, facts))
    assert set(found.efficacy) == {0.0, 1.0}


@jax.jit
def run(model, tokens):
    return model(tokens)


def test_equals_torch(embedded):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(factlm.model_directory()).eval()

    def logits_of(tokens):
        with torch.no_grad():
            return theirs(torch.tensor([tokens])).logits[0].numpy()

    model, tokenizer = embedded
    facts = read_facts(factlm.NAME, 4)
    assert_equal(evaluate(model, tokenizer, facts), slowly(logits_of, tokenizer, facts))


def test_an_unedited_model_holds_what_is_true(embedded):
    found = evaluate(*embedded, read_facts(factlm.NAME, 64)).summary()
    assert found["efficacy"]["mean"] < 0.05 and found["neighborhood"]["mean"] > 0.95
    assert found["neighborhood_accuracy"]["mean"] > 0.9
    assert found["efficacy_magnitude"]["mean"] < -0.8


def test_no_prompts_of_a_kind_leave_it_out(embedded):
    facts = [Fact(0, "{} was born in", "Tomas Corvin", target_true="Oru", target_new="Hexby")]
    found = evaluate(*embedded, facts).summary()
    empty = {"mean": None, "low": None, "high": None, "count": 0}
    assert found["paraphrase"] == found["neighborhood"] == found["score"] == empty
    assert found["efficacy"]["count"] == 1
    assert evaluate(*embedded, []).summary()["efficacy"] == empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_new": ""}, "fact 7: .* found no target_new"),
        ({"neighborhood_targets": ("a",)}, "fact 7: neighborhood_targets: .* each of 2 .* found 1"),
        ({"target_new": "  "}, "target '  ' after 'A is': expected at least one token"),
    ],
)
def test_facts_that_cannot_be_measured_are_named(embedded, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*embedded, [dataclasses.replace(FACTS[0], **change)])


def test_kinds_and_variants_name_all_measures():
    fields = [field.name for field in dataclasses.fields(evaluation.Evaluation)]
    assert fields[1:] == list(MEASURES) and len(MEASURES) == 3 * len(KINDS) + 2


def test_the_likeliest_of_several_answers_counts(by_hand, embedded):
    """An alias can win, lose and be recalled in the stead of its target."""
    first = dataclasses.replace(
        FACTS[0], paraphrase_prompts=(), neighborhood_prompts=("B is",), new_aliases=("other",)
    )
    aliased = dataclasses.replace(
        first,
        prompt="{} is",
        subject="D",
        target_new="new",
        target_true="actual",
        neighborhood_prompts=("E is",),
        neighborhood_targets=("true",),
        neighborhood_aliases=(("own",),),
    )
    TABLE.update({"D is new": (0.01, False), "E is new": (0.01, False), "E is true": (0.1, True)})
    found = evaluate(*embedded, [aliased])
    # D: other .05 of new's answers, actual .15; E: own .2 of the true ones, other .3 of the new.
    assert found.efficacy_magnitude.tolist() == pytest.approx([0.05 - 0.15])
    assert found.neighborhood_magnitude.tolist() == pytest.approx([0.2 - 0.3])
    assert found.efficacy_accuracy.tolist() == [0] and found.neighborhood_accuracy.tolist() == [1]


def test_without_a_true_target_only_accuracy_is_known(by_hand, embedded):
    facts = [dataclasses.replace(fact, target_true="") for fact in FACTS]
    found = evaluate(*embedded, facts)
    assert np.isnan(found.efficacy).all() and np.isnan(found.paraphrase_magnitude).all()
    np.testing.assert_equal(found.efficacy_accuracy, by_hand.efficacy_accuracy)
    np.testing.assert_equal(found.neighborhood, [np.nan, 0])  # the second has answers of its own
    assert found.summary()["score"]["mean"] is None
