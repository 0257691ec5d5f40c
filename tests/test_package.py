"""The package as a whole: every module imports alone, without the optional packages; the API is the commands."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

import ttl_deploy

OPTIONAL = (
    *("tensorrt", "torch_tensorrt", "pydicom", "highdicom", "nibabel", "h5py", "ray"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "hypothesis", "pytest"),
    *("model_signing", "sigstore", "OpenSSL"),
)


def test_every_module_imports_without_the_optional_packages() -> None:
    names = [m.name for m in pkgutil.walk_packages(ttl_deploy.__path__, "ttl_deploy.") if "__main__" not in m.name]
    assert len(names) > 60
    code = (
        "import sys, importlib, warnings\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "room",
    [
        "runtime",
        "artifact",
        "inputs.image",
        "parity",
        "latency",
        "data.manifest",
        "prediction.predict",
        "serve.server",
        "spec",
    ],
)
def test_a_deployment_machine_needs_no_torch(room: str) -> None:
    code = f"import sys\nsys.modules['torch'] = None\nimport ttl_deploy.{room}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ttl_deploy.__all__)
def test_the_api_is_there(name: str) -> None:
    assert callable(getattr(ttl_deploy, name))


def test_no_room_has_a_commands_name_so_that_importing_one_does_not_hide_the_function() -> None:
    rooms = {module.name for module in pkgutil.iter_modules(ttl_deploy.__path__)}
    assert not rooms & set(ttl_deploy.__all__)
    for room in rooms - {"__main__"}:
        importlib.import_module(f"ttl_deploy.{room}")
    assert all(callable(getattr(ttl_deploy, name)) for name in ttl_deploy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = ttl_deploy.exprot


def least_records() -> Iterator[str]:
    """A line for every public record, made of nothing but what it must be given."""
    yield "anything: Any = None"
    for name in ttl_deploy.__all__:
        one = getattr(ttl_deploy, name)
        if isinstance(one, type) and issubclass(one, BaseModel):
            needed = [field for field, info in one.model_fields.items() if info.is_required()]
            yield f"ttl_deploy.{name}({', '.join(f'{field}=anything' for field in needed)})"


THIRD = (
    *("torch", "torchvision", "timm", "transformers", "lightning_fabric", "ray", "monai", "onnx", "onnxscript"),
    *("numpy", "scipy", "sklearn", "pandas", "matplotlib", "sympy"),
)
BENEATH = ",".join(f"{name}.*" for name in THIRD)


@pytest.mark.slow
def test_the_readmes_python_type_checks_with_the_functions_own_signatures(tmp_path: Path) -> None:
    """In a user's project, strictly; and a wrong argument is told, as it would not be of a module that is called.

    A checker without Pydantic's plugin, too, sees which fields of the records may be left out. The types of packages
    beneath are not looked at: the functions' own signatures are what counts, and PyTorch alone takes half a minute.
    """
    root = Path(__file__).parents[1]
    example = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "good.py").write_text(example[1] + "\n".join(["from typing import Any", *least_records()]) + "\n")
    (tmp_path / "bad.py").write_text("import ttl_deploy\n\nttl_deploy.export('run', format=3)\n")
    # Silent as for an installed package, whose own faults mypy does not tell.
    settings = f"[mypy]\nstrict = true\nfollow_imports = silent\n[mypy-{BENEATH}]\nfollow_imports = skip\n"
    (tmp_path / "mypy.ini").write_text(settings)
    command = [sys.executable, "-m", "mypy", "good.py", "bad.py"]
    environment = os.environ | {"MYPYPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    first, *rest = done.stdout.splitlines()
    assert first.startswith('bad.py:3: error: Argument "format" to "export_run" has incompatible type "int"'), done
    assert rest == ["Found 1 error in 1 file (checked 2 source files)"]


def test_no_module_is_named_like_what_it_wraps() -> None:
    """Run as a script, such a file would hide the real package."""
    taken = {"onnx", "tensorrt", "torch", "openvino", "onnxruntime", "random", "types"}
    files = Path(str(ttl_deploy.__file__)).parent.rglob("*.py")
    assert not [path for path in files if path.stem in taken]
