"""The walls between the rooms: who may import what, read the environment, or spell a tensor's name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_backend import contract
from gptoss_backend.contract import TensorSpec

ROOT = Path(__file__).parents[2]
BACKEND = ROOT / "backend" / "gptoss_backend"
CONTRACT = BACKEND / "contract"
ADAPTER = ROOT / "adapter" / "gptoss_adapter"
ROOMS = ("backend", "adapter", "client", "load", "docker")
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
MAY_READ_THE_ENVIRONMENT = {BACKEND / "environment.py"}
# parts of the engine that say where a model goes, and know no torch: the client asks them before anything is started
PLANNING = tuple(
    f"gptoss_backend.engine.{module}"
    for module in (
        "checkpoint_files",
        "config",
        "errors",
        "native.library",
        "placement.choice",
        "placement.jobs",
        "placement.memory_plan",
    )
)
TENSOR_NAMES = {spec.name for spec in vars(contract).values() if isinstance(spec, TensorSpec)}


def module_name(path: Path, room: Path) -> str:
    """Return what a file is imported as, from the folder its packages lie in."""
    return ".".join(path.relative_to(room).with_suffix("").parts).removesuffix(".__init__")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, at its top or inside a function; relative imports made absolute."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = list(path.parent.parts[-node.level :]) if node.level == 1 else []
            assert node.level <= 1, f"{path}: import by the absolute name"
            module = ".".join([*package, node.module or ""]).strip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def importers(files: list[Path], *modules: str) -> list[str]:
    """Return `file: module` for every import of one of the modules or of what is in them."""
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in imports(path)
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    ]


def strings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_sources_when_listed_then_every_room_has_some() -> None:
    for room in ROOMS:
        assert any(path.is_relative_to(ROOT / room) for path in SOURCES)
    assert len(TENSOR_NAMES) == 6


@pytest.mark.parametrize("room", ["adapter", "client", "load", "docker"])
def test_process_without_a_model_when_read_then_it_never_imports_torch(room: str) -> None:
    load = ROOT / "load"
    # these run a model in their own process
    benchmarks = {
        load / "cpu_bench.py",
        load / "engine_bench.py",
        load / "full_size.py",
        load / "gpu_check.py",
        load / "gpu_bench.py",
        load / "gpu_tiles.py",
        load / "serving_bench.py",
        load / "demo_skills.py",
        *(load / "bench").iterdir(),
    }
    files = [path for path in SOURCES if path.is_relative_to(ROOT / room) and path not in benchmarks]
    assert importers(files, "torch", "transformers", "accelerate", "safetensors") == []
    engine = importers(files, "gptoss_backend.engine")
    assert [line for line in engine if room != "client" or not line.split()[1].startswith(PLANNING)] == []


@pytest.mark.parametrize("room", [ADAPTER, ROOT / "client" / "gptoss_client"], ids=lambda room: room.name)
def test_process_without_a_model_when_all_of_it_is_imported_then_torch_is_not(room: Path) -> None:
    modules = [module_name(path, room.parent) for path in sorted(room.rglob("*.py"))]
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("False", "")


def test_preprocess_when_read_then_nothing_it_imports_imports_torch() -> None:
    files = [path for path in SOURCES if path.is_relative_to(BACKEND / "harmony") or path.is_relative_to(CONTRACT)]
    files += [
        BACKEND / "triton" / name for name in ("__init__.py", "preprocess.py", "heartbeat.py", "tensors.py", "logs.py")
    ]
    files += [
        BACKEND / "structure" / name
        for name in (
            "__init__.py",
            "checking.py",
            "costs.py",
            "joined_fields.py",
            "reduction.py",
            "schemas.py",
            "text_forms.py",
        )
    ]
    files += [
        BACKEND / name
        for name in (
            "__init__.py",
            "environment.py",
            "heartbeat.py",
            "host_port.py",
            "model_names.py",
            "settings.py",
            "settings_sources.py",
        )
    ]
    assert importers(files, "torch", "transformers", "gptoss_backend.engine") == []
    ours = {name.rsplit(".", 1)[0] for path in files for name in imports(path) if name.startswith("gptoss_backend.")}
    known = {module_name(path, ROOT / "backend") for path in files}
    assert ours <= known, "a module that this test does not look into"


def test_contract_when_imported_then_from_the_package_and_not_from_its_modules() -> None:
    modules = [module_name(path, ROOT / "backend") for path in CONTRACT.glob("*.py") if path.name != "__init__.py"]
    outside = [path for path in SOURCES if not path.is_relative_to(CONTRACT)]
    assert importers(outside, *modules) == []


def test_stub_library_when_imported_then_only_by_the_triton_room() -> None:
    outside = [path for path in SOURCES if not path.is_relative_to(BACKEND / "triton")]
    assert importers(outside, "triton_python_backend_utils") == []


def test_mcp_package_when_imported_then_only_by_the_module_that_is_loaded_on_demand() -> None:
    outside = [path for path in SOURCES if path != ADAPTER / "mcp_servers" / "sdk_session.py"]
    assert importers(outside, "mcp", "mcp_types", "httpx2") == []


def test_engine_when_read_then_it_knows_neither_triton_nor_harmony_nor_the_adapter() -> None:
    engine = [path for path in SOURCES if path.is_relative_to(BACKEND / "engine")]
    assert importers(engine, "gptoss_backend.triton", "gptoss_backend.harmony", "gptoss_adapter", "tritonclient") == []


def test_backend_when_read_then_it_knows_neither_the_adapter_nor_the_client() -> None:
    backend = [path for path in SOURCES if path.is_relative_to(BACKEND)]
    assert importers(backend, "gptoss_adapter", "gptoss_client", "fastapi", "tritonclient") == []


def test_environment_when_read_then_only_in_one_place() -> None:
    readers = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path not in MAY_READ_THE_ENVIRONMENT
        and any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
            for node in ast.walk(parse(path))
        )
    ]
    assert readers + importers(SOURCES, "os.environ", "os.getenv") == []


def test_tensor_names_when_spelled_then_only_in_the_contract() -> None:
    spelled = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        if not path.is_relative_to(CONTRACT)
        for name in TENSOR_NAMES.intersection(strings(parse(path)))
    ]
    assert spelled == []
