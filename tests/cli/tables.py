"""What each command prints as a table, from records such as its runs leave."""

import types
from pathlib import Path

from kis_jax.cli import console
from kis_jax.edit import console as edit_console
from kis_jax.lifelong import console as lifelong_console
from kis_jax.mcqa import console as mcqa_console
from kis_jax.passes.convergence import Look
from kis_jax.plan import console as plan_console
from kis_jax.stats import console as stats_console


def entry(mean, low=0.0, high=1.0, count=128):
    return {"mean": mean, "low": low, "high": high, "count": count}


def scan():
    numbers = {
        "mean": 0.000123,
        "std": 0.0456,
        "kurtosis": 1234.5,
        "bulk_std_times_sqrt_rank": 1.02,
        "tail_fraction": 0.0123,
        "max": 0.987,
        "condition": 1.23e8,
    }
    console.print_layers([{"layer": layer, **numbers} for layer in (0, 31)])


def evaluation():
    measures = {"paraphrase_accuracy": entry(0.5), "neighborhood_magnitude": entry(None)}
    console.print_evaluation({"before": measures, "after": measures})


def edit():
    scores = {name: entry(0.998) for name in edit_console._MEASURES}
    scores |= {name: entry(0.998) for name in edit_console._ACCURACIES}
    record = {"metrics": {"before": scores, "after": scores}, "method": "constrained"}
    record |= {"generated": None, "after": None}
    facts = [{"left_out": None, "known": True}] * 128
    edit_console.print_edit(record | {"edits": [{"replaces": []}] * 128, "facts": facts}, "out")


def ledger():
    fact = types.SimpleNamespace(
        case_id=21919,
        prompt="{} died in the city of",
        subject="Anneliese Michel",
        target="Berlin",
        replaces=(),
    )
    found = types.SimpleNamespace(layers=[8], facts=[fact], method="constrained", base=None)
    edit_console.print_ledger(found)


def lifelong():
    point = {
        "edits": 500,
        "metrics": {
            name: entry(0.987) for name in ("efficacy", "retention", "paraphrase", "neighborhood")
        },
        "perplexity": 12345.678,
        "update": {"relative": 0.123},
        "interference": {"others": {"error": 3.3e-5}},
    }
    method = {"method": "sequential", "checkpoints": [point], "collapse": {"edits": 100}}
    lifelong_console.print_lifelong([method, method | {"method": "constrained", "collapse": None}])


def plan():
    best = {
        "method": "constrained",
        "effect": 0.881,
        "carried": 0.732,
        "displacement": 12.345,
        "edits_within_bound": 1_234,
        "score": 0.848,
        "rehearsal": {"score": 0.821},
    }
    layer = {"layer": 31, "num_collisions": 2_345, "clusters": [0] * 11, "reached": 0.87}
    layer |= {"methods": [best], "pairs": []}
    chosen = {"layer": 31, "method": "constrained", "effect": 0.88, "displacement": 12.3}
    chosen |= {
        "most_displaced": [{"text": "The mother tongue of Vera Holm is", "displacement": 3.2}]
    }
    nothing = {"contradictions": [], "repetitions": [], "suspected": [], "facts": []}
    settings = {"max_displacement": 1.0}
    plan_console.print_plan(
        nothing | {"settings": settings, "recommendation": chosen, "layers": [layer]}
    )


def train():
    best = {"stage": 0, "epoch": 12, "loss": 0.1234, "validation_loss": 0.4321}
    record = {"best": [best | {"validation_accuracy": 0.876}], "fresh": []}
    mcqa_console.print_training(record, Path("out"))


def puzzles():
    metrics = {
        name: entry(0.5, 0.4, 0.6, 40)
        for name in ("original", "semantic_and_context", "all_of_a_group")
    }
    methods = [{"method": name, "metrics": metrics} for name in ("likelihood", "likelihood gained")]
    mcqa_console.print_evaluation({"methods": methods})


def stats():
    look = Look(tokens=12_345_678, error=[0.0123] * 2, kurtosis={"0": 12.3, "31": 1234.5})
    stats_console.print_table(stats_console._convergence((look, look)))


TABLES = (scan, evaluation, edit, ledger, lifelong, plan, train, puzzles, stats)
