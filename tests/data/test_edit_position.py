import pytest

from kis_jax.data.facts import Fact
from kis_jax.data.rewrites import tokenize_rewrites
from kis_jax.passes.targets.settings import TargetSettings


@pytest.mark.parametrize("prompt", ["{} was born in", "Home town of {}", "Who is {}? Answer:"])
def test_the_token_edited_is_the_subjects_last_or_the_prompts(embedded_tokenizer, prompt):
    fact = Fact(0, prompt, "Vera Holm", target_new="Port Ravel")
    ends = {"subject_last": "Vera Holm", "last": fact.text}
    for position, end in ends.items():
        (rewrite,) = tokenize_rewrites(
            [fact], ["", "So they say"], embedded_tokenizer, context_length=96, position=position
        )
        for text in rewrite.texts:
            before = embedded_tokenizer.decode(text.tokens[: text.index + 1])
            assert before.endswith(end) and text.index < text.start
        essence = embedded_tokenizer.decode(rewrite.essence.tokens[: rewrite.essence.index + 1])
        assert essence == ("Vera Holm" if position == "subject_last" else "Vera Holm is a")


def test_other_positions_are_refused():
    with pytest.raises(ValueError, match="position: expected one of subject_last, last, found 'x'"):
        TargetSettings(1, 0.1, 1.0, 0.0, position="x")
