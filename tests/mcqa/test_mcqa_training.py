"""Fine-tuning: what parts, devices and interruptions may not change, and what learning does."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kis_jax.checkpoints.multiple_choice import load_multiple_choice
from kis_jax.checkpoints.saving import parameters_of
from kis_jax.data.choices import ChoiceBatch
from kis_jax.data.puzzles import VARIANTS, read_puzzles
from kis_jax.mcqa import scratch as mcqa_scratch
from kis_jax.mcqa import training as mcqa_training
from kis_jax.mcqa.inputs import TrainRequest, open_training, parse_epochs
from kis_jax.mcqa.step import Schedule, Trainee
from kis_jax.mcqa.training import train, train_into


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A model from scratch that is compiled and run in no time."""
    with pytest.MonkeyPatch.context() as patch:
        small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
        patch.setattr(mcqa_scratch, "_SIZES", mcqa_scratch._SIZES | small)
        yield patch


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Eight groups of puzzles, all of one length, so that a step is compiled once."""
    path = tmp_path_factory.mktemp("puzzles") / "few.jsonl"
    words = "oak elm ash fir yew".split()
    puzzles = [
        {
            "id": f"{group}-{variant}", "group": f"g{group}", "variant": variant,
            "question": f"Not {words[group % 5]}, {variant} {words[group % 4]}?",
            "choices": words[:4], "answer": (group * 7 + place) % 4,
        }
        for group in range(8)
        for place, variant in enumerate(VARIANTS)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, puzzles)))
    return str(path)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tmp_path_factory.mktemp("start") / "start"


def request(file, **changes):
    settings = {
        "stages": (file,),
        "epochs": (4,),
        "batch_size": 8,
        "devices": 1,
        "validation": file,
    }
    return TrainRequest("scratch", **{**settings, **changes})


@pytest.fixture(scope="module")
def trained(file, start, tmp_path_factory, tiny):
    """Two stages of four epochs; what is compiled for them serves the other runs as well."""
    patch = tiny
    inputs = open_training(request(file, stages=(file, file)), start)
    model, _ = load_multiple_choice(inputs.directory)
    shared = Trainee(model, dtype="float32", devices=inputs.devices, parts=1)
    patch.setattr(mcqa_training, "Trainee", lambda model, **settings: shared)
    directory = tmp_path_factory.mktemp("whole") / "progress"
    told = []
    after, record = train(inputs, model, directory, on_epoch=told.append)
    return inputs, model, after, record, told


def arrays(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model)]


def assert_same_bits(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_recorded(trained):
    inputs, model, after, record, told = trained
    assert told == record["history"] and len(told) == 8
    assert [(t["stage"], t["epoch"]) for t in told] == [
        (i, e) for i in (0, 1) for e in (1, 2, 3, 4)
    ]
    assert record["puzzles"] == [24, 24] and record["validation_puzzles"] == 24
    assert [best["stage"] for best in record["best"]] == [0, 1]
    assert all(np.isfinite(t["loss"]) for t in told)
    changed = [np.any(a != b) for a, b in zip(arrays(model), arrays(after), strict=True)]
    assert np.mean(changed) > 0.9


def test_an_interrupted_run_ends_with_the_same_bits(trained, tmp_path):
    """In the first stage, and again at the beginning of the second."""
    inputs, model, after, record, _ = trained
    done = itertools.count(1)

    def interrupt(told):
        if next(done) in (2, 8):
            raise KeyboardInterrupt

    for _ in range(2):  # what was done before is told again
        with pytest.raises(KeyboardInterrupt):
            train(inputs, model, tmp_path / "progress", on_epoch=interrupt)
    again, found = train(inputs, model, tmp_path / "progress")
    assert found == record
    assert_same_bits(again, after)
    once_more, found = train(inputs, model, tmp_path / "progress")
    assert found == record
    assert_same_bits(once_more, after)


def test_progress_of_another_run_is_refused(trained, file, start, tmp_path):
    inputs, model, *_ = trained
    other = dataclasses.replace(inputs, request=dataclasses.replace(inputs.request, seed=1))
    train(other, model, tmp_path / "progress")
    with pytest.raises(ValueError, match="that of another: seed differ; choose another folder"):
        train(inputs, model, tmp_path / "progress")


def test_early_stopping_ends_a_stage_and_keeps_its_best(trained, tmp_path, monkeypatch):
    inputs, model, *_ = trained
    accuracies = iter([0.5, 0.9, 0.7, 0.95])
    found = []

    def validated(run):
        found.append(run._learned.parameters["classifier.kernel"].copy())
        return {"validation_loss": 1.0, "validation_accuracy": next(accuracies)}

    monkeypatch.setattr(mcqa_training._Run, "_validated", validated)
    asked = dataclasses.replace(inputs.request, stages=("one",), patience=1)
    inputs = dataclasses.replace(inputs, request=asked, stages=inputs.stages[:1])
    after, record = train(inputs, model, tmp_path / "progress")
    assert len(record["history"]) == 3 and record["best"][0]["epoch"] == 2
    np.testing.assert_array_equal(after.classifier.kernel[...], found[1])


@pytest.fixture(scope="module")
def bench(trained):
    """A model whose gradient is worth the name, and random texts, the last row empty."""
    model, rng = trained[1], np.random.default_rng(0)
    model = jax.tree.map(lambda x: x + 0.4 * rng.normal(size=x.shape).astype(x.dtype), model)
    shape = (8, 3, 10)
    batch = ChoiceBatch(
        tokens=rng.integers(0, model.config.vocab_size, shape, dtype=np.int32),
        mask=np.arange(10) < rng.integers(4, 11, (8, 3, 1)),
        types=rng.integers(0, 2, shape, dtype=np.int32),
        answers=rng.integers(0, 3, 8, dtype=np.int32),
        weights=np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32),
    )
    return model, batch


def one_step(model, batch, *, dtype, devices, parts):
    optimizer = optax.sgd(1.0)
    trainee = Trainee(model, dtype=dtype, devices=jax.devices()[:devices], parts=parts)
    learned = trainee.again(trainee.start, optimizer)
    learned, loss = trainee.updating(optimizer)(learned, batch)
    gradient = {n: np.asarray(trainee.start[n]) - x for n, x in learned.parameters.items()}
    return gradient, float(loss), learned


@pytest.fixture(scope="module")
def step(bench):
    """Its gradient in two parts on two devices, the loss before it, and what is learned."""
    return one_step(*bench, dtype="float32", devices=2, parts=2)


def reference(model, batch):
    """Loss and gradient of the 7 puzzles, one at a time."""

    def loss(model, row):
        texts = (jnp.asarray(x)[row][None] for x in (batch.tokens, batch.mask, batch.types))
        logits = model(*texts)[0]
        return jax.nn.logsumexp(logits) - logits[jnp.asarray(batch.answers)[row]]

    step = jax.jit(jax.value_and_grad(loss))
    found = [step(model, row) for row in range(7)]
    losses, gradients = zip(*found, strict=True)
    return np.mean(losses), jax.tree.map(lambda *g: sum(g) / 7, *gradients)


def test_a_step_is_the_mean_gradient_of_its_puzzles(bench, step):
    model, batch = bench
    expected_loss, expected = reference(model, batch)
    expected = parameters_of(expected)
    gradient, loss, _ = step
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for name, value in gradient.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(gradient["classifier.kernel"]).max() > 0.05, "there is something to compare"


def test_parameters_are_everywhere(step):
    *_, learned = step
    for array in learned.parameters.values():
        assert len(array.sharding.device_set) == 2 and array.is_fully_replicated


def test_bfloat16_is_of_the_computation_alone(bench):
    model, batch = bench
    trainee = Trainee(model, dtype="bfloat16", devices=jax.devices()[:1], parts=1)
    low = trainee.running(trainee.start)
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in trainee.start.values()} == {jnp.dtype("float32")}
    assert_same_bits(trainee.model(trainee.start), model)
    inputs = batch.tokens, batch.mask, batch.types
    exact, found = jax.jit(model)(*inputs), jax.jit(low)(*inputs)
    assert found.dtype == jnp.float32 and jnp.any(found != exact)
    np.testing.assert_allclose(found, exact, atol=0.1 * float(jnp.abs(exact).max()))


def test_the_schedule_rises_and_falls():
    optimizer = Schedule(0.1, 0.25, 0.0).optimizer(8)
    parameters = {"x.bias": jnp.zeros(())}
    state, moves = optimizer.init(parameters), []
    for _ in range(8):
        with jax.numpy_dtype_promotion("standard"):
            changes, state = optimizer.update({"x.bias": jnp.ones(())}, state, parameters)
        moves.append(-float(changes["x.bias"]))
    # Adam moves by the learning rate itself where the gradient is always the same.
    rise, fall = [0.0, 0.05], [0.1 * (1 - step / 6) for step in range(6)]
    np.testing.assert_allclose(moves, rise + fall, atol=1e-6)


def test_matrices_alone_decay():
    optimizer = Schedule(0.1, 0.0, 0.5).optimizer(1)
    parameters = {"a.kernel": jnp.ones(()), "a.bias": jnp.ones(())}
    zero = jax.tree.map(jnp.zeros_like, parameters)
    with jax.numpy_dtype_promotion("standard"):
        changes, _ = optimizer.update(zero, optimizer.init(parameters), parameters)
    assert float(changes["a.kernel"]) == pytest.approx(-0.05) and float(changes["a.bias"]) == 0


def test_a_trained_model_is_written_and_read_back(trained, tmp_path):
    inputs, _, after, record, _ = trained
    found = train_into(inputs, tmp_path)
    assert found["fresh"] == [] and {**found, "fresh": []} == {**record, "fresh": []}
    assert (tmp_path / "training.json").exists()
    loaded, fresh = load_multiple_choice(tmp_path / "model")
    assert fresh == ()
    assert_same_bits(loaded, after)
    assert (tmp_path / "model" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6, "accumulate": 4}, "a positive multiple of .*, 4 x 1, found 6"),
        ({"devices": 9}, "devices: expected 1 to 8"),
        ({"epochs": (0,)}, "epochs: expected one positive number"),
        ({"epochs": (1, 2)}, "one for each of 1 stages, found 1, 2"),
        ({"stages": ()}, "expected a stage with puzzles"),
        ({"warmup": 1.0}, "warmup: expected a share"),
        ({"learning_rate": -1.0}, "learning_rate: expected a positive number"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
        ({"drop_tokens": 1.0}, "drop_tokens: expected a probability"),
        ({"patience": -1}, "patience: expected 0 or more"),
        ({"validation": "nowhere"}, "found no file nowhere"),
    ],
)
def test_bad_requests_are_named(file, start, changes, message):
    with pytest.raises(ValueError, match=message):
        open_training(request(file, **changes), start)


def test_epochs_are_parsed():
    assert parse_epochs("2,10") == (2, 10)
    with pytest.raises(ValueError, match="epochs: expected a number, or one for each stage"):
        parse_epochs("many")


def test_what_is_held_out_no_stage_learns_from(file, start):
    inputs = open_training(request(file, stages=(file, file), validation=None), start)
    held = {puzzle.question for puzzle in inputs.validation}
    assert [len(puzzles) for puzzles in inputs.stages] == [21, 21]
    assert not held & {puzzle.question for stage in inputs.stages for puzzle in stage}


def test_without_validation_a_tenth_is_held_out_and_answers_may_be_drawn(file, start):
    inputs = open_training(request(file, validation=None, random_answers=True), start)
    assert len(inputs.validation) == 3 and len(inputs.stages[0]) == 21
    true = {p.id: p.choices[p.answer] for p in read_puzzles(file)}
    drawn = [*inputs.stages[0], *inputs.validation]
    wrong = [true[p.id] != p.choices[p.answer] for p in drawn]
    assert 0.4 < np.mean(wrong) < 1
