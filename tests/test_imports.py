"""Who may import whom (DESIGN.md section 2), and what must not be loaded or used anywhere."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dm2at_ray

PACKAGE = Path(dm2at_ray.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT = ""
"""The package's own `__init__.py`."""

MAY_IMPORT: dict[str, set[str]] = {
    ROOT: {"config", "launch"},
    "cli": {
        "commands",
        "config",
        "config_help",
        "launch",
        "monitoring",
        "remote",
        "run_report",
        "status",
        ROOT,
    },
    "commands": {
        "bench",
        "config",
        "labeling",
        "monitor",
        "monitoring",
        "pool",
        "pool_build",
        "pool_check",
        "preflight",
        "remote",
        "run_evaluation",
        "run_export",
        "run_prediction",
        "source_spec",
        "service",
        "store",
        "submission",
        "uri",
    },
    "pool_build": {"monitoring", "pool", "pool_listing", "pool_tasks", "store"},
    "pool_listing": {"pool", "pool_tasks"},
    "pool_check": {"monitoring", "pool", "pool_tasks"},
    "pool_tasks": {"actor", "config", "launch", "monitoring"},
    "trained": {"config", "pool", "source_spec", "store"},
    "monitor": {"monitoring", "store", "uri"},
    "__main__": {"cli"},
    "submission": {"config", "preflight", ROOT},
    "local_ray": set(),
    "launch": {
        "actor",
        "config",
        "config_sections",
        "driver",
        "local_ray",
        "monitoring",
        "oracles",
        "preflight",
        "store",
        "uri",
    },
    "status": {"actor", "local_ray", "oracles", "store", "uri"},
    "oracles": {"config", "labeling", "pool", "store"},
    "run_report": {"monitoring", "pool", "source_spec", "store", "uri", ROOT},
    "run_evaluation": {
        "actor",
        "algorithm",
        "config",
        "launch",
        "monitoring",
        "pool",
        "preflight",
        "source_spec",
        "stages",
        "store",
        "trained",
        "uri",
        ROOT,
    },
    "prediction_source": {"config", "pool", "source_spec", "stages"},
    "run_prediction": {
        "actor",
        "config",
        "launch",
        "monitoring",
        "prediction_source",
        "preflight",
        "stages",
        "store",
        "trained",
        "uri",
        ROOT,
    },
    "run_export": {"config", "models", "pool", "source_spec", "stages", "store", "trained", "uri", ROOT},
    "service": {
        "client",
        "config",
        "labeling",
        "oracles",
        "pool",
        "preflight",
        "run_report",
        "source_spec",
        "status",
        "store",
        "submission",
        "uri",
        ROOT,
    },
    "client": set(),
    "remote": {"client", "labeling", "pool", "store", "uri"},
    "actor": {"config", "driver", "journal", "monitoring", "preflight", "store"},
    "driver": {
        "config",
        "journal",
        "labeling",
        "models",
        "oracles",
        "pool",
        "round_record",
        "stages",
        "standing",
        "stopping",
        "store",
    },
    "round_record": {"config", "journal", "stages", "standing", "store"},
    "standing": {"config", "stages", "store"},
    "journal": {"config", "monitoring", "stages", "store"},
    "preflight": {"algorithm", "config", "models", "pool", "source_spec", "stages", "store", "uri"},
    "source_spec": {"config", "pool", "uri"},
    "stopping": {"config_sections"},
    "stages": {"algorithm", "neighbors", "models", "training", "pool", "store", "config", "config_sections"},
    "store": {"atomic_output", "config", "models", "parquet", "uri"},
    "labeling": {"store", "pool", "parquet", "uri"},
    "pool": {"algorithm", "atomic_output", "parquet", "uri"},
    "parquet": set(),
    "atomic_output": set(),
    "bench": {
        "algorithm",
        "config",
        "labeling",
        "models",
        "neighbors",
        "pool",
        "service",
        "source_spec",
        "stages",
        "store",
        "training",
        ROOT,
    },
    "training": {"algorithm", "models"},
    "neighbors": {"algorithm"},
    "models": set(),
    "algorithm": set(),
    "monitoring": set(),
    "config_help": {"config", "config_sections"},
    "config": {"config_sections"},
    "config_sections": set(),
    "uri": set(),
    "errors": set(),
}
"""Part of the package -> the parts that it may import, `errors` and itself besides."""

KNOW_NO_RAY = {
    "algorithm",
    "bench",
    "client",
    "neighbors",
    "models",
    "training",
    "labeling",
    "pool",
    "store",
    "monitoring",
    "config",
    "config_sections",
}
KNOW_NO_PYDANTIC = {"algorithm", "bench", "neighbors", "models", "training", "pool", "monitoring"}


def module_of(path: Path) -> str:
    parts = [PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return (
        ROOT if relative.name == "__init__.py" and len(relative.parts) == 1 else Path(relative.parts[0]).stem
    )


def imports(path: Path) -> set[str]:
    """Full names of all modules, and names in them, that a file imports anywhere, be it for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_parts(names: set[str]) -> set[str]:
    """The parts of the package among imported names."""
    known = {path.stem for path in PACKAGE.iterdir()}
    inner = [name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}.")]
    return {part if part in known else ROOT for part in inner}


def used(path: Path) -> set[str]:
    """Dotted names that a file mentions as code, such as `torch.load`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_imports__every_part_has_a_rule() -> None:
    assert {part_of(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports__keep_to_the_rules(path: Path) -> None:
    part = part_of(path)
    assert own_parts(imports(path)) <= MAY_IMPORT[part] | {part, "errors"}


def test_imports__pool_takes_counter_based_randomness_only() -> None:
    allowed = "dm2at_ray.algorithm.counter_rng."
    taken = {name for path in FILES if part_of(path) == "pool" for name in imports(path)}
    ours = {name for name in taken if name.startswith("dm2at_ray.algorithm")}
    assert ours
    assert all(name.startswith(allowed) for name in ours)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports__ray_and_pydantic_stay_outside(path: Path) -> None:
    outside = {name.split(".")[0] for name in imports(path)}
    if part_of(path) in KNOW_NO_RAY:
        assert "ray" not in outside
    if part_of(path) in KNOW_NO_PYDANTIC:
        assert "pydantic" not in outside


def test_imports__the_core_loads_neither_ray_nor_pydantic_nor_the_config() -> None:
    """Seen in a fresh interpreter, which has nothing loaded yet."""
    core = [module_of(p) for p in FILES if part_of(p) in {"algorithm", "neighbors", "models", "training"}]
    unwanted = (
        "ray",
        "pydantic",
        "dm2at_ray.config",
        "dm2at_ray.stages",
        "dm2at_ray.store",
        "dm2at_ray.pool",
    )
    code = (
        f"import importlib, json, sys; [importlib.import_module(m) for m in {core!r}]; "
        f"print(json.dumps([m for m in {unwanted!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
    assert len(core) > 20


def test_imports__who_only_looks_at_runs_loads_no_torch() -> None:
    """Seen in a fresh interpreter: torch would be three quarters of the server's memory and of its start."""
    lookers = [module_of(p) for p in FILES if part_of(p) in {"store", "service", "status", "labeling"}]
    code = (
        f"import importlib, sys; [importlib.import_module(m) for m in {lookers!r}]; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert len(lookers) > 50


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports__every_module_can_be_imported(path: Path) -> None:
    importlib.import_module(module_of(path))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_package__never_pickles(path: Path) -> None:
    loaded = {name.split(".")[0] for name in imports(path)}
    assert not loaded & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not used(path) & {"torch.load", "torch.save", "pandas.read_pickle", "ray.cloudpickle"}
    assert "allow_pickle" not in path.read_text(encoding="utf-8")


def test_used__tells_apart_what_ends_alike(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text("safetensors.torch.load(x)\nraise ValueError('torch.load')\n")
    assert "torch.load" not in used(file)
    file.write_text("def f():\n    return torch.load(x)\n")
    assert "torch.load" in used(file)


def test_package__its_public_names_are_there() -> None:
    for name in dm2at_ray.__all__:
        assert getattr(dm2at_ray, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dm2at_ray.nonsense  # noqa: B018
