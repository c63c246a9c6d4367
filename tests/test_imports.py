"""The import rules: gateway → shared ← worker, pure files, and one file each that knows redis-py and petals."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("shared", "gateway", "worker", "deploy")
FILES = sorted(file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

MODELS = ("torch", "transformers", "tokenizers", "petals", "hivemind")
WEB = ("starlette", "uvicorn")
# What runs code that is in the data it reads, or may crash at it.
PICKLES = ("pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "torch.load")
LOOPS = ("asyncio", "anyio", "threading", "socket", "redis")

# Files whose path matches → modules that they must not import. A module counts with everything below it.
FORBIDDEN = {
    r"": PICKLES,
    r"shared/": ("gateway", "worker", "deploy", "tests", *MODELS, *WEB),
    r"gateway/": ("worker", "deploy", "tests", *MODELS),
    r"worker/": ("gateway", "deploy", "tests", *WEB),
    r"deploy/(?!demo/)": ("gateway", "worker", "tests", *WEB),
    # The server needs the same repairs of petals as the client.
    r"deploy/(?!demo/|swarm\.py)": MODELS,
    r"(?!shared/link\.py)": ("redis",),
    r"(?!worker/petals_|deploy/swarm\.py)": ("petals", "hivemind"),
    r"shared/(messages|sampling|catalog|errors|keys|records|settings)\.py": LOOPS,
    r"gateway/(petals_ws|petals_fields|petals_words|transcript|batch_lines|batch_records)\.py": (*LOOPS, *WEB),
    r"gateway/openai_(answers|calls|deltas|objects|prompts|render|texts|types|words)\.py": (*LOOPS, *WEB),
    r"worker/(stopping|detokenizer|prompts|readings|templates)\.py": (*LOOPS, *MODELS),
}
ALLOWED = {("deploy/swarm.py", "worker.petals_compat")}


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports, and what it takes of torch, anywhere in it, with full names."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
            case ast.ImportFrom():
                yield ".relative"
            case ast.Attribute(value=ast.Name(id="torch"), attr=attribute):
                yield f"torch.{attribute}"


def violations(file: Path) -> set[str]:
    forbidden = {module for pattern, modules in FORBIDDEN.items() if re.match(pattern, str(file)) for module in modules}
    return {
        name
        for name in imports(file)
        if any(f"{name}.".startswith(f"{module}.") for module in (*forbidden, ".relative"))
        and (str(file), name) not in ALLOWED
    }


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_imports_nothing_that_it_must_not_know(file: Path) -> None:
    assert violations(file) == set()


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_every_rule_is_about_some_file(pattern: str) -> None:
    assert any(re.match(pattern, str(file)) for file in FILES)


def loaded_by(module: str) -> set[str]:
    """Top-level modules in a new process after it has imported this one."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_the_gateway_loads_no_model_code() -> None:
    assert loaded_by("gateway.__main__") & {*MODELS, "numpy", "worker", "deploy"} == set()


def test_a_worker_of_oracles_loads_no_model_code() -> None:
    assert loaded_by("worker.__main__") & {*MODELS, "numpy", "gateway", "deploy", *WEB} == set()


def test_the_stack_loads_no_model_code() -> None:
    assert loaded_by("deploy.stack") & {*MODELS, "numpy", "gateway", "worker", *WEB} == set()
