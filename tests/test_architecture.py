"""What holds for the package as a whole: direction of imports, public names, quick import."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kis_jax as kis
from kis_jax.models.families import FAMILIES

PACKAGE = Path(kis.__file__).parent

TASKS = ("scan", "edit", "plan", "lifelong", "compare", "stats", "facts", "mcqa", "inspect", "tune")
BELOW_PASSES = {"core", "models", "checkpoints", "data", "factlm"}
BELOW_TASKS = BELOW_PASSES | {"passes", "report"}
# Each folder may import from itself and from those listed. `factlm` is two things: paths of files,
# which need nothing, and the training of the model. Tasks do not import each other, except those
# that edit; a task's `command` and `console` are the front, which the folder `cli` puts together.
BELOW = {
    "core": set(),
    "models": {"core"},
    "checkpoints": {"core", "models", "factlm"},
    "data": {"core", "models", "factlm"},
    "factlm": {"core", "models", "checkpoints", "data"},
    "passes": BELOW_PASSES,
    "report": {"checkpoints"},
    **dict.fromkeys(TASKS, BELOW_TASKS),
    "plan": BELOW_TASKS | {"edit"},
    "lifelong": BELOW_TASKS | {"edit"},
    "tune": BELOW_TASKS | {"edit"},
    "cli": BELOW_TASKS | set(TASKS),
}
FRONT = ("command.py", "console.py", "undo_command.py", "ledger_command.py", "settings_command.py")


def imports(path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: name modules in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "kis_jax" else [node.module]


@pytest.mark.parametrize("layer", BELOW)
def test_imports_point_downwards_only(layer):
    files = list((PACKAGE / layer).rglob("*.py"))
    assert files
    for path in files:
        below = BELOW["cli"] | {"cli"} if path.name in FRONT else BELOW[layer] | {layer}
        for name in imports(path):
            top, *rest = name.split(".")
            if top == "kis_jax" and rest and rest[0] in BELOW:
                assert rest[0] in below, f"{path} imports {name}"


def test_core_imports_jax_alone():
    for path in (PACKAGE / "core").rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            given = {"jax", "numpy", "kis_jax", "jaxtyping"}  # jax, what it stands on, and shapes
            given = {"lazy_loader"} if path.name == "__init__.py" else given
            assert top in given | sys.stdlib_module_names, f"{path} imports {name}"


def test_linear_algebra_stands_in_core_alone():
    """Models contract attention heads by einsum; what solves, factors or measures is core's."""
    for path in PACKAGE.rglob("*.py"):
        top = path.relative_to(PACKAGE).parts[0]
        if top != "core":
            text = path.read_text()
            words = ["linalg", "triangular_solve", "cholesky("] + ["einsum"] * (top != "models")
            found = [word for word in words if word in text]
            assert not found, f"{path} has {found}: call kis_jax.core"


def test_a_family_is_one_file_of_under_80_lines():
    made = 0
    for path in (PACKAGE / "models" / "families").glob("*.py"):
        text = path.read_text()
        made += "\nFAMILY = " in text
        assert "\nFAMILY = " not in text or text.count("\n") < 80, path.name
    assert made == len(FAMILIES)


def test_factlms_paths_need_nothing():
    assert set(imports(PACKAGE / "factlm" / "__init__.py")) == {"pathlib"}


@pytest.mark.parametrize("name", kis.__all__)
def test_every_public_name_is_documented_with_an_example(name):
    thing = getattr(kis, name)
    text = inspect.getdoc(thing)
    assert text and text.splitlines()[0].endswith(".")
    if inspect.isfunction(thing) or name in ("SecondMoment",):
        assert ">>>" in text, f"{name} has no example"
    if inspect.isfunction(thing) and name != "angles" and inspect.signature(thing).parameters:
        assert "Raises:" in text and "Args:" in text
        assert "Returns:" in text or inspect.signature(thing).return_annotation == "None"


def in_fresh_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_import_touches_no_global_state_and_loads_no_jax():
    in_fresh_process(
        "import sys, kis_jax, kis_jax.cli\n"
        "assert not {'jax', 'flax', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "import jax\n"
        "before = dict(jax.config.values)\n"
        "for name in dir(kis_jax): getattr(kis_jax, name)\n"
        "assert dict(jax.config.values) == before\n"
    )
