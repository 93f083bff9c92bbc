"""Layouts: what is written in one is read back as it was; each row of the table by an example."""

import dataclasses
import json
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kis_jax.data.facts import Fact, iter_facts, read_facts
from kis_jax.data.facts_writing import counterfact_record, writing_facts
from kis_jax.data.layout_values import Question
from kis_jax.data.layouts import LAYOUTS, read_record


def read(record):
    (fields,) = read_record(record, 0)
    return Fact(**fields)


def several(texts):
    """One text as itself, several as a list: files have both."""
    return texts[0] if len(texts) == 1 else list(texts)


def zsre(fact):
    (near,) = fact.neighborhood_prompts
    return {
        "src": fact.text,
        "subject": fact.subject,
        "alt": several((fact.target_new, *fact.new_aliases)),
        "answers": [fact.target_true, *fact.true_aliases],
        "rephrase": fact.paraphrase_prompts[0],
        "loc": near,
        "loc_ans": [fact.neighborhood_targets[0], *fact.neighborhood_aliases[0]],
        "portability": {
            "New Question": fact.portability[0].prompts[0],
            "New Answer": several(fact.portability[0].answers),
        },
    }


def easyedit(fact):
    return {
        "prompt": fact.text,
        "subject": fact.subject,
        "target_new": several((fact.target_new, *fact.new_aliases)),
        "ground_truth": several((fact.target_true, *fact.true_aliases)),
        "rephrase_prompt": fact.paraphrase_prompts[0],
        "locality_prompt": fact.neighborhood_prompts[0],
        "locality_ground_truth": [fact.neighborhood_targets[0], *fact.neighborhood_aliases[0]],
        "portability_prompt": fact.portability[0].prompts[0],
        "portability_ground_truth": several(fact.portability[0].answers),
    }


def knowedit(fact):
    asked = fact.portability[0]
    near = [[text] for text in (fact.neighborhood_targets[0], *fact.neighborhood_aliases[0])]
    return {
        "prompt": fact.text,
        "subject": fact.subject,
        "target_new": several((fact.target_new, *fact.new_aliases)),
        "ground_truth": [fact.target_true, *fact.true_aliases],
        "rephrase": fact.paraphrase_prompts[0],
        "portability": {
            asked.kind: [
                {"prompt": asked.prompts[0], "ground_truth": [[text] for text in asked.answers]}
            ]
        },
        "locality": {
            "Forgetfulness": [{"prompt": fact.neighborhood_prompts[0], "ground_truth": near}]
        },
    }


def wikibigedit(fact):
    return {
        "update": fact.text,
        "subject": fact.subject,
        "ans": several((fact.target_new, *fact.new_aliases)),
        "rephrase": fact.paraphrase_prompts[0],
        "ground_truth": several((fact.target_true, *fact.true_aliases)),
        "loc": fact.neighborhood_prompts[0],
        "loc_ans": [fact.neighborhood_targets[0], *fact.neighborhood_aliases[0]],
        "mhop": fact.portability[0].prompts[0],
        "mhop_ans": several(fact.portability[0].answers),
    }


def mquake(fact):
    asked = fact.portability[0]
    return {
        "case_id": 0,
        "requested_rewrite": [
            {
                "prompt": fact.prompt,
                "subject": fact.subject,
                "target_new": {"str": several((fact.target_new, *fact.new_aliases)), "id": "Q1"},
                "target_true": {"str": fact.target_true, "aliases": list(fact.true_aliases)},
                "question": fact.paraphrase_prompts[0],
            }
        ],
        "questions": list(asked.prompts),
        "new_answer": asked.answers[0],
        "new_answer_alias": list(asked.answers[1:]),
    }


def fastedit(fact):
    return {
        "prompt": fact.prompt,
        "subject": fact.subject,
        "target": several((fact.target_new, *fact.new_aliases)),
        "queries": list(fact.paraphrase_prompts),
    }


def ultraedit(fact):
    return {
        "prompt": fact.prompt,
        "ans": several((fact.target_new, *fact.new_aliases)),
        "rephrase_prompt": fact.paraphrase_prompts[0],
        "loc": fact.neighborhood_prompts[0],
        "loc_ans": [fact.neighborhood_targets[0], *fact.neighborhood_aliases[0]],
    }


def rippleedits(fact):
    def sentence(target):
        return {"prompt": f"{fact.prompt} {target}."}

    asked = fact.portability[0]
    answers = [{"value": asked.answers[0], "aliases": list(asked.answers[1:])}]
    near = [{"value": fact.neighborhood_targets[0], "aliases": [*fact.neighborhood_aliases[0]]}]
    return {
        "edit": sentence(fact.target_new) | {"original_fact": sentence(fact.target_true)},
        asked.kind: [{"test_queries": [{"prompt": asked.prompts[0], "answers": answers}]}],
        "Forgetfulness": [
            {"test_queries": [{"prompt": fact.neighborhood_prompts[0], "answers": near}]}
        ],
    }


NO_NEIGHBORS = {
    "neighborhood_prompts": (),
    "neighborhood_targets": (),
    "neighborhood_aliases": (),
}
NO_SUBJECT = {"subject": "", "prompt": "Who leads it, which is"}
NO_TRUE = {"target_true": "", "true_aliases": ()}


# By layout: what writes it, the name that it gives questions, and what it has no place for.
WRITERS = {
    "CounterFact": (counterfact_record, None, {}),
    "zsRE": (zsre, "portability", {}),
    "EasyEdit": (easyedit, "one-hop", {}),
    "KnowEdit": (knowedit, None, {}),
    "WikiBigEdit": (wikibigedit, "multi-hop", {}),
    "MQuAKE": (mquake, "multi-hop", NO_NEIGHBORS),
    "FastEdit": (fastedit, None, NO_NEIGHBORS | NO_TRUE | {"portability": ()}),
    "UltraEditBench": (ultraedit, None, NO_SUBJECT | NO_TRUE | {"portability": ()}),
    "RippleEdits": (
        rippleedits,
        "Subject_Aliasing",
        NO_SUBJECT | {"paraphrase_prompts": (), "new_aliases": (), "true_aliases": ()},
    ),
}

# Names in capitals, so that no other word of a prompt can be taken for one.
names = st.text("ABCÉÜ'’京都Ж-0", min_size=1, max_size=8).filter(lambda t: t.strip() == t)
words = st.text('abcé ?東的ж"\\\n', min_size=1, max_size=12).filter(str.strip)
answered = st.lists(words, min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def facts(draw):
    new, true, near, far = (draw(answered) for _ in range(4))
    return Fact(
        0,
        f"{draw(words)} {{}} {draw(words)}",
        draw(names),
        target_true=true[0],
        target_new=new[0],
        paraphrase_prompts=(draw(words),),
        neighborhood_prompts=(draw(words),),
        neighborhood_targets=near[:1],
        new_aliases=new[1:],
        true_aliases=true[1:],
        neighborhood_aliases=(near[1:],) if near[1:] else (),
        portability=(Question("Reasoning", (draw(words),), far),),
    )


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=80, deadline=None)
@given(fact=facts())
def test_what_is_written_in_a_layout_is_read_back(name, fact):
    write, kind, lacking = WRITERS[name]
    assume(name != "RippleEdits" or fact.target_new != fact.target_true)
    fact = dataclasses.replace(fact, **lacking)
    if fact.portability and kind:
        asked = dataclasses.replace(fact.portability[0], kind=kind)
        fact = dataclasses.replace(fact, portability=(asked,))
    given = fact
    if not fact.neighborhood_aliases and write is not counterfact_record:
        given = dataclasses.replace(fact, neighborhood_aliases=((),))
    assert read(json.loads(json.dumps(write(given)))) == fact


@settings(max_examples=40, deadline=None)
@given(written=st.lists(facts(), min_size=1, max_size=4))
def test_a_file_that_is_written_is_read_as_the_same_facts(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("facts") / "facts.json"
    with writing_facts(path) as keep:
        for fact in written:
            keep(fact)
    assert read_facts(path, strict=True) == written


def test_a_file_that_is_not_written_to_its_end_is_not_there(tmp_path):
    with pytest.raises(RuntimeError), writing_facts(tmp_path / "facts.json") as keep:
        keep(Fact(0, "{} is", "a"))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


BASE = {"prompt": "The tongue of {} is", "subject": "Vera Holm"}


@pytest.mark.parametrize(
    ("target", "first", "others"),
    [
        ({"str": ["Rome", "Roma"]}, "Rome", ("Roma",)),
        (["University of Michigan"], "University of Michigan", ()),
        ({"str": 0}, "0", ()),
        (1998, "1998", ()),
        ("", "", ()),
        (None, "", ()),
        ([], "", ()),
        ({"value": "Rome", "aliases": ["Roma", "Rome"]}, "Rome", ("Roma",)),
        ("<|endoftext|>", "", ()),
    ],
)
def test_targets_and_their_aliases(target, first, others):
    fact = read({"requested_rewrite": BASE | {"target_new": target, "target_true": target}})
    assert (fact.target_new, fact.new_aliases) == (first, others)
    assert (fact.target_true, fact.true_aliases) == (first, others)


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_targets_under_other_names(place):
    targets = {"target_new_str": "Orvish", "target_true_str": "Aldric"}
    within = {"requested_rewrite": BASE | targets, "case_id": 1}
    beside = {"requested_rewrite": BASE, "case_id": 1} | targets
    fact = read(within if place == "inside" else beside)
    assert (fact.target_new, fact.target_true) == ("Orvish", "Aldric")
    assert read(BASE | targets).target_new == "Orvish"
    zsre = {"src": "Where was Vera Holm born?", "subject": "Vera Holm", "ans": "Hexby"}
    assert read(zsre).target_new == "Hexby"


@pytest.mark.parametrize(
    ("given_id", "name"), [(None, 5), ("tok-1", "tok-1"), (17.0, 17), (0, 0), (7, 7)]
)
def test_ids_are_names(given_id, name):
    record = {"src": "Where was Vera born?", "subject": "Vera", "case_id": given_id}
    (fields,) = read_record(record, 5)
    assert fields["case_id"] == name and type(fields["case_id"]) is type(name)


def test_a_record_of_several_facts_asks_what_follows_after_the_last():
    def one(prompt, subject, target):
        return {
            "prompt": prompt,
            "subject": subject,
            "target_new": {"str": target},
            "question": f"{prompt.replace('{}', subject)}?",
        }

    first, second = read_record(
        {
            "case_id": 12,
            "requested_rewrite": [
                one("{} speaks", "Vera", "Orvish"),
                one("{} is of", "Orvish", "Oru"),
            ],
            "questions": ["Where?", "In which town?"],
            "new_answer": "Oru",
            "new_answer_alias": ["Oru upon Ar"],
        },
        0,
    )
    assert [first["case_id"], second["case_id"]] == ["12-1", "12-2"]
    assert first["paraphrase_prompts"] == ("Vera speaks?",) and first["portability"] == ()
    assert second["portability"] == (
        Question("multi-hop", ("Where?", "In which town?"), ("Oru", "Oru upon Ar")),
    )


@pytest.mark.parametrize(
    ("sentence", "before", "found"),
    [
        (
            "The mother of Ann is Eve.",
            "The mother of Ann is Ada.",
            ("The mother of Ann is", "Eve", "Ada"),
        ),
        (
            "A is United Kingdom.",
            "A is United States.",
            ("A is", "United Kingdom", "United States"),
        ),
        (
            "What is Love is by Ann.",
            "What is Love is by Eve.",
            ("What is Love is", "by Ann", "by Eve"),
        ),
        ("Ann speaks Orvish.", "Ann speaks Aldric.", ("Ann speaks", "Orvish", "Aldric")),
        ("The mother of Ann is Eve.", None, ("The mother of Ann is", "Eve", "")),
    ],
)
def test_sentences_end_with_their_targets(sentence, before, found):
    record = {"edit": {"prompt": sentence, "original_fact": {"prompt": before}}}
    fact = read(record)
    assert (fact.prompt, fact.target_new, fact.target_true) == found and fact.subject == ""


def test_neighbors_without_an_answer_of_their_own():
    """Only in CounterFact is the fact's own true target theirs; elsewhere nothing is known."""
    rewrite = BASE | {"target_true": "Aldric"}
    shared = read({"requested_rewrite": rewrite, "neighborhood_prompts": ["Ann speaks"]})
    assert (shared.neighborhood_prompts, shared.neighborhood_targets) == (("Ann speaks",), ())
    mixed = read(
        {
            "requested_rewrite": rewrite,
            "neighborhood_prompts": ["Ann speaks", {"prompt": "Bob is a", "target": "smith"}],
        }
    )
    assert mixed.neighborhood_targets == ("Aldric", "smith")
    assert read({"src": "Who?", "loc": "Where?"}).neighborhood_prompts == ()


def test_the_subject_is_written_as_it_stands_in_the_prompt():
    fact = read({"src": "Who leads the d\u2019oyly troupe?", "subject": "D'Oyly", "alt": "Ann"})
    assert (fact.prompt, fact.subject) == ("Who leads the {} troupe?", "d\u2019oyly")


def examples(path):
    """The records of docs/facts.md, by the file each is shown as."""
    import re

    found = re.findall(
        r"```json\n(.*?)```\n\n```text\nkis facts (\S+)\n", path.read_text(), re.DOTALL
    )
    return {name: json.loads(text) for text, name in found}


def test_a_thousand_records_of_each_layout_take_less_than_a_second(tmp_path, request):
    shown = examples(request.config.rootpath / "docs" / "facts.md")
    met = set()
    for name, content in shown.items():
        records = content["records"] if "records" in content else content
        records = records if isinstance(records, list) else [records]
        path = tmp_path / name
        path.write_text(json.dumps((1000 * records)[: 1000 * len(records)]))
        start = time.process_time()
        met |= {entry.layout for entry in iter_facts(path)}
        assert time.process_time() - start < len(records), name
    flat = {"CounterFact, flat"}  # shown in words alone
    assert met == {layout.name for layout in LAYOUTS} - flat
