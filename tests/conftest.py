"""Settings of the whole suite; they must stand before jax is imported."""

import gc
import os
import shutil

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# Compilation is most of the suite's time. `make test` halves it by machine code that is not
# optimized; `make test-all` runs programs as XLA makes them for a user.
if os.environ.get("KIS_TEST_OPTIMIZED") != "1":
    os.environ["XLA_FLAGS"] += (
        " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        " --xla_cpu_parallel_codegen_split_count=1"  # one object a program: these are small
    )
# Threads of NumPy's products spin while they wait for each other: with a test process busy on
# every core, a float64 reference took 51 s of processor time instead of 4 s.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

# Half of the suite's time is compilation, of the same programs in many tests and processes.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.abspath(f"{__file__}/../../.jax_cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Text that models write in tests is kept nowhere else.
os.environ["KIS_CACHE"] = os.path.abspath(f"{__file__}/../../.jax_cache/own_text")

from pathlib import Path

import jax
import numpy as np
import pytest

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def pytest_sessionstart(session):
    """Begins a new cache of compiled programs where changes have made the old one large."""
    if not hasattr(session.config, "workerinput"):  # the process that starts the others
        cache = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
        if sum(path.stat().st_size for path in cache.glob("*")) > 10**9:
            shutil.rmtree(cache)


def pytest_collection_finish():
    """Searches for garbage less often, and not in what was imported: 6 % of the suite's time."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="module", autouse=True)
def programs_are_few():
    """Lets compiled programs go: each maps memory, and Linux grants a process 65,530 maps."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.is_file() or maps.read_bytes().count(b"\n") > 8_000:
        jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared_data():
    """Real CounterFact records and GPT-2's tokenizer, where the checkout has them beside it."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def embedded():
    """The embedded model and its tokenizer."""
    import kis_jax as kis

    return kis.load("factlm")


@pytest.fixture(scope="session")
def embedded_tokenizer():
    """The embedded model's tokenizer, which needs no weights."""
    from kis_jax import factlm
    from kis_jax.checkpoints.tokenizers import load_tokenizer

    return load_tokenizer(factlm.model_directory())


@pytest.fixture(scope="session")
def letters():
    """A tokenizer of single letters, blanks dropped, for the smallest models: 41 tokens or less."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {token: place for place, token in enumerate(["?", *"abcdefghijklmnopqrs.z"])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="?"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
