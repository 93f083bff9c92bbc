"""One file a family: how its configuration is read, and where its weights stand in a file."""

from kis_jax.models.families import gpt2
from kis_jax.models.families.family import Family as Family
from kis_jax.models.families.family import Weight as Weight

FAMILIES: dict[str, Family] = {family.name: family for family in (gpt2.FAMILY,)}
