"""A recording double of torch_tensorrt: no engine can be built without an NVIDIA GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ttl_deploy.formats import torch_trt


class Engine(torch.nn.Module):
    """Stands for TensorRT's engine; its program is no part of the PyTorch graph."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.layers = layers

    def get_layer_info(self) -> str:
        """As the engine inspector tells it."""
        return json.dumps({"Layers": self.layers})


class Input(SimpleNamespace):
    """What is said of an input."""

    profiles: Any = None


@pytest.fixture
def engine_layers() -> list[Any]:
    """What the double's engine says of its layers: two in half precision. A test may change it."""
    half = {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Half"}], "Outputs": []}
    return [half, half]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, engine_layers: list[Any]) -> list[tuple[str, Any]]:
    """A double of torch_tensorrt whose engine keeps the program; the CPU stands for the GPU."""
    made: list[tuple[str, Any]] = []
    module = ModuleType("torch_tensorrt")

    def compile(program: Any, **options: Any) -> Any:
        made.append(("compile", {"program": program, **options}))
        compiled = torch.nn.Module()
        compiled.add_module("_run_on_acc_0", Engine(engine_layers))
        compiled.program = program
        return compiled

    def save(compiled: Any, path: str, **options: Any) -> None:
        made.append(("save", {"path": path, **options}))
        if options["output_format"] == "exported_program":
            torch.export.save(compiled.program, path)
        else:
            Path(path).write_bytes(b"package")

    module.Input = Input  # type: ignore[attr-defined]
    module.dynamo = SimpleNamespace(compile=compile)  # type: ignore[attr-defined]
    module.save = save  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    monkeypatch.setattr(torch_trt, "DEVICE", "cpu")
    return made
