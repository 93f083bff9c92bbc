"""One file a family: how its configuration is read, and where its weights stand in a file."""

from kis_jax.models.families import (
    bert,
    deberta_v2,
    distilbert,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    llama,
    ministral3,
    mistral,
    mistral3,
    mixtral,
    olmo2,
    olmo3,
    olmoe,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    roberta,
    smollm3,
)
from kis_jax.models.families.family import Family as Family
from kis_jax.models.families.family import Weight as Weight

_MODULES = (
    *(gpt2, gptj, gpt_neox, llama, mistral, qwen2, qwen3, gemma2, gemma3, olmo2, phi3),
    *(smollm3, granite, olmo3, ministral3, mistral3),
    *(mixtral, olmoe, qwen3_moe, gpt_oss),
    *(bert, roberta, distilbert, deberta_v2),
)

FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}
