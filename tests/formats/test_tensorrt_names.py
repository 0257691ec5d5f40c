"""Every name of TensorRT that our code and its double use, against NVIDIA's real bindings.

The bindings' wheel holds the whole Python module, only not the libraries behind it. Empty libraries with the few
symbols it looks up let it be imported, in a process of its own; nothing of it can be run.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tensorrt_double as double

import ttl_deploy

PACKAGE = Path(str(ttl_deploy.__file__)).parent
OURS = [
    PACKAGE / "formats" / "kit" / "build_engine.py",
    PACKAGE / "formats" / "kit" / "verify_engine.py",
    PACKAGE / "runtime" / "trt_engine_run.py",
    PACKAGE / "runtime" / "trt.py",
]
OURS_OF_RTX = [OURS[0], OURS[2], PACKAGE / "runtime" / "trt_rtx.py"]
"""What is given the module of TensorRT for RTX: names of theirs must be in that library too."""

OF_RTX_ALONE = {("ComputeCapability",)}
"""What only the builder of TensorRT for RTX is asked for."""

REMOVED = [
    "FP16",
    "BF16",
    "INT8",
    "FP8",
    "INT4",
    "FP4",
    "OBEY_PRECISION_CONSTRAINTS",
    "PREFER_PRECISION_CONSTRAINTS",
    "REJECT_EMPTY_ALGORITHMS",
    "int8_calibrator",
    "platform_has_fast_fp16",
    "platform_has_fast_int8",
    "platform_has_tf32",
    "set_output_type",
    "dynamic_range",
    "algorithm_selector",
    "device_memory_size",
    "supports_model",
    "EXPLICIT_BATCH",
    "max_batch_size",
    "execute_async_v2",
    "num_bindings",
    "get_binding_shape",
    "build_engine",
    "IInt8Calibrator",
    "IInt8EntropyCalibrator2",
]
"""Names that TensorRT 10 or 11 took away."""

_SYMBOLS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "getNvOnnxParserVersion",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "getInferLibVersion",
]

_PROBE = """
import json, tensorrt_bindings as trt
members = lambda kind: sorted(dir(kind))
names = {n: members(getattr(trt, n)) for n in dir(trt) if isinstance(getattr(trt, n), type)}
signatures = {f"{n}.{m}": (getattr(getattr(trt, n), m).__doc__ or "") for n in names for m in names[n]}
print(json.dumps({"version": trt.__version__, "names": names, "signatures": signatures, "module": members(trt)}))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Version, classes with their members, and signatures of the real bindings."""
    compiler = shutil.which("gcc")
    if importlib.util.find_spec("tensorrt_bindings") is None or compiler is None:
        pytest.skip("needs gcc and the package tensorrt_cu13_bindings")
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "empty.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _SYMBOLS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        target = folder / f"lib{library}.so.11"
        subprocess.run([compiler, "-shared", "-fPIC", str(folder / "empty.c"), "-o", str(target)], check=True)
    answer = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env={"LD_LIBRARY_PATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def chains(path: Path) -> Iterator[tuple[str, ...]]:
    """Every `trt.A.B` of a file, as ("A", "B"), the longest only."""
    inner = set()
    for node in ast.walk(ast.parse(path.read_text())):
        parts: list[str] = []
        step: ast.AST = node
        while isinstance(step, ast.Attribute):
            parts.insert(0, step.attr)
            step = step.value
        if parts and isinstance(step, ast.Name) and step.id == "trt":
            if node not in inner:
                yield tuple(parts)
            assert isinstance(node, ast.Attribute)
            inner.update(n for n in ast.walk(node.value) if isinstance(n, ast.Attribute))


def test_the_bindings_are_of_the_version_we_write_for(real: dict[str, Any]) -> None:
    assert int(real["version"].split(".")[0]) in (10, 11)


def test_every_name_our_code_uses_exists(real: dict[str, Any]) -> None:
    used = {chain for path in OURS for chain in chains(path)} - OF_RTX_ALONE
    assert {"STRONGLY_TYPED", "TF32", "WORKSPACE", "DETAILED", "JSON"} <= {chain[-1] for chain in used}
    for first, *rest in used:
        assert first in real["module"], first
        if rest:
            assert rest[0] in real["names"][first], (first, *rest)


def test_no_name_of_the_other_edition_alone_is_one_of_both(real: dict[str, Any]) -> None:
    assert not {first for first, *_ in OF_RTX_ALONE} & set(real["module"])


def test_the_check_finds_a_name_that_does_not_exist(real: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("config.set_flag(trt.BuilderFlag.FP16)\ntrt.Builder(trt.Logger())\n")
    found = set(chains(tmp_path / "wrong.py"))
    assert found == {("BuilderFlag", "FP16"), ("Builder",), ("Logger",)}
    assert "FP16" not in real["names"]["BuilderFlag"]


def double_members(module: ModuleType) -> Iterator[tuple[str, str]]:
    for name, kind in vars(module).items():
        if isinstance(kind, type):
            yield from ((name, member) for member in vars(kind) if not member.startswith("_"))


def test_the_double_s_methods_take_the_real_parameters(real: dict[str, Any]) -> None:
    """The bindings' docstrings hold their signatures: parameter names are compared, in order."""
    module, checked = double.make(double.Behaviour()), 0
    for name, member in double_members(module):
        method = vars(getattr(module, name))[member]
        signatures = [
            line.split("(self", 1)[1]
            for line in real["signatures"][f"{name}.{member}"].splitlines()
            if "(self: " in line
        ]
        if not callable(method) or not signatures or isinstance(method, type):
            continue
        ours = list(method.__code__.co_varnames[1 : method.__code__.co_argcount])
        theirs = [[part.split(":")[0].strip() for part in _parameters(signature)] for signature in signatures]
        assert any(candidate[: len(ours)] == ours for candidate in theirs), (name, member, ours, theirs)
        checked += 1
    assert checked > 20


def _parameters(signature: str) -> list[str]:
    """`: Self, a: X[Y, Z], b: W) -> V` without the first and the result, cut at the outer commas."""
    depth, parts, current = 0, [], ""
    for letter in signature:
        depth += (letter in "[(") - (letter in "])")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    return [*parts, current][1:]


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    """TensorRT for RTX, the real one: its libraries come with it."""
    return pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx")


@pytest.mark.parametrize("path", OURS_OF_RTX, ids=lambda path: path.name)
def test_every_name_is_in_the_other_edition_too(path: Path, rtx: ModuleType) -> None:
    for chain in chains(path):
        found: Any = rtx
        for name in chain:
            assert hasattr(found, name), chain
            found = getattr(found, name)


@pytest.mark.parametrize("edition", ["full", "rtx"])
def test_the_double_knows_only_names_of_the_real_bindings(edition: str, request: pytest.FixtureRequest) -> None:
    members = set(double_members(double.make(double.Behaviour(), rtx=edition == "rtx")))
    assert len(members) > 50
    if edition == "rtx":
        assert ("IRuntimeConfig", "create_runtime_cache") in members
        module = request.getfixturevalue("rtx")
        names = {kind: dir(getattr(module, kind, None)) for kind, _ in members}
    else:
        names = request.getfixturevalue("real")["names"]
    wrong = [pair for pair in members if pair[1] not in names.get(pair[0], ())]
    assert not wrong


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_that_was_removed_is_used(path: Path) -> None:
    attributes = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not attributes & set(REMOVED)
    assert not attributes & {"init_libnvinfer_plugins"}
