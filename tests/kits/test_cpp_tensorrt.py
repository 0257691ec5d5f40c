"""The C++ program on TensorRT, compiled and run for both editions against stubs of them and of CUDA's runtime.

NVIDIA's headers of TensorRT come with no package of the index: `stub/NvInferRuntime.h` declares what the program uses.
CUDA's own header comes with PyTorch (in Triton's wheel). No engine is run: the stub's outputs are the input's pixels.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_kits import ROOT, SIZE, Program, assert_equal, identity, noise, refused

from ttl_deploy.artifact import Artifact, open_artifact, record_of, update_manifest
from ttl_deploy.inputs.image import normalise
from ttl_deploy.runtime.stored_samples import ROUNDING, SAMPLES_FILE, TOLERANCE

CPP = ROOT / "export" / "cpp-tensorrt"
STUB = Path(__file__).parent / "stub"
PIXELS = noise(4, SIZE, SIZE, 3)
FULL, RTX = "11.4.0.106", "1.7.1.116"
QUADRO, T4, ADA = "7 5 Quadro RTX 6000", "7 5 Tesla T4", "8 9 NVIDIA L4"

Made = Callable[..., Artifact]


def cuda_headers() -> Path | None:
    """The folder of `cuda_runtime_api.h`, which comes with PyTorch on Linux."""
    found = importlib.util.find_spec("triton")
    places = found.submodule_search_locations if found is not None else None
    folder = Path(next(iter(places or ("",)))) / "backends" / "nvidia" / "include"
    return folder if (folder / "cuda_runtime_api.h").is_file() else None


def built(folder: Path, rtx: bool) -> Path:
    """The program, by its own CMake file, and libraries that take NVIDIA's names."""
    headers = cuda_headers()
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    zlib = subprocess.run(
        ["c++", "-E", "-include", "zlib.h", "-x", "c++", "/dev/null"], capture_output=True, check=False
    )
    if headers is None or zlib.returncode or not shutil.which("cmake"):
        pytest.skip("needs cmake, zlib's header and CUDA's headers (package triton)")
    (folder / "include").mkdir()
    (folder / "lib").mkdir()
    shutil.copy(STUB / "NvInferRuntime.h", folder / "include")
    line = "#define TRT_MAJOR_RTX 1\n" if rtx else "#define NV_TENSORRT_MAJOR 11\n"
    (folder / "include" / "NvInferVersion.h").write_text(line)
    made = [f"-I{folder / 'include'}", f"-isystem{headers}", "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror"]
    build = folder / "build"
    options = {"TENSORRT_ROOT": folder, "CUDA_INCLUDE_DIR": headers, "CUDART_LIBRARY": folder / "lib" / "libcudart.so"}
    name = "tensorrt_rtx" if rtx else "nvinfer"
    for command in (
        ["c++", *made, str(STUB / "tensorrt.cpp"), "-o", str(folder / "lib" / f"lib{name}.so")],
        ["c++", *made, str(STUB / "cudart.cpp"), "-o", str(folder / "lib" / "libcudart.so")],
        ["cmake", "-S", str(CPP), "-B", str(build), *(f"-D{key}={value}" for key, value in options.items())],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "ttl_predict"


def on(program: Path, card: str | None, version: str) -> Program:
    """The program on a machine with a card and a version of the library."""
    here = os.environ | {"FAKE_TENSORRT": version} | ({"FAKE_CARD": card} if card else {})

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", env=here)

    return run


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("full"), rtx=False)


@pytest.fixture(scope="module")
def rtx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("rtx"), rtx=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(noise(23, 31, 3)).save(tmp_path / "image.ppm")
    return tmp_path / "image.ppm"


def with_engine(
    folder: Path,
    engine: str,
    name: str,
    details: dict[str, Any],
    expected: Any = None,
    packed: bool = True,
    size: tuple[int, int] = (SIZE, SIZE),
    **more: Any,
) -> Artifact:
    """An artifact of the identity with an engine in it, whose samples expect the identity."""
    artifact = open_artifact(identity(folder, size=size))
    pixels = noise(4, *size, 3)
    outputs = normalise(pixels, artifact.manifest.preprocess).reshape(len(pixels), -1)
    samples = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(
        samples,
        pixels=pixels,
        embedded=np.array(False),
        expected=outputs if expected is None else expected(outputs),
        activation=np.array("none"),
    )
    (folder / name).write_text(engine)
    (folder / SAMPLES_FILE).write_bytes(samples.getvalue())
    records = {name: record_of(folder / name) for name in (name, SAMPLES_FILE)}
    kept = {**artifact.manifest.files, **records}
    return update_manifest(artifact, files=kept, details=details, **more)


def of_rtx(
    folder: Path,
    behaviour: str = "right",
    least: int = 1,
    version: str = RTX,
    size: tuple[int, int] = (SIZE, SIZE),
    **more: Any,
) -> Path:
    engines = {name: {"file": "model-sm75.engine"} for name in ("sm75", "sm86")}
    details = {"rtx": {"tensorrt_rtx": version, "engines": engines}}
    height, width = size
    plan = f"3 {height} {width} {least} {behaviour}"
    return with_engine(folder, plan, "model-sm75.engine", details, size=size, precision="fp16", **more).folder


def of_full(folder: Path, behaviour: str = "right", version: str = FULL, **profile: Any) -> Path:
    settings = {"version_compatible": False, "hardware": "none"} | profile
    engine = {"tensorrt": version, "gpu": "Quadro RTX 6000", "compute_capability": "7.5", "profile": settings}
    more = {"format": "trt", "precision": "fp16", "model_file": "model.engine"}
    return with_engine(folder, f"3 {SIZE} {SIZE} 1 {behaviour}", "model.engine", {"engine": engine}, **more).folder


def test_the_bounds_are_those_of_the_package() -> None:
    """What an engine may differ from its graph is written down twice."""
    rows = re.findall(r'\{"(\w+)", \{([^,]+), ([^}]+)\}\}', (CPP / "samples.cpp").read_text())
    assert {name: float(tolerance) for name, tolerance, _ in rows} == TOLERANCE
    assert {name: float(rounding) for name, _, rounding in rows} == ROUNDING


@pytest.mark.slow
class TestBoth:
    def test_the_same_numbers_in_either_edition(self, full: Path, rtx: Path, tmp_path: Path) -> None:
        images = []
        for shape in ((5, 9), (12, 40), (97, 64)):
            images.append(tmp_path / f"{shape[0]}.pgm")
            Image.fromarray(noise(*shape)).save(images[-1])
        assert_equal(on(rtx, QUADRO, RTX), of_rtx(tmp_path / "rtx"), images)
        twin, answers = identity(tmp_path / "twin"), on(full, QUADRO, FULL)(of_full(tmp_path / "full"), *images)
        assert answers.returncode == 0, answers.stderr
        assert_equal(lambda _, *given: answers, twin, images)

    def test_an_input_that_is_not_square(self, rtx: Path, tmp_path: Path, image: Path) -> None:
        size = (10, 16)
        assert_equal(on(rtx, QUADRO, RTX), of_rtx(tmp_path / "rtx", size=size), [image])
        turned = open_artifact(of_rtx(tmp_path / "turned", size=size))
        engine = turned.folder / "model-sm75.engine"
        engine.write_text("3 16 10 1 right")
        update_manifest(turned, files={**turned.manifest.files, engine.name: record_of(engine)})
        assert "(-1, 3, 16, 10) is not that of floats" in refused(on(rtx, QUADRO, RTX), turned.folder, image)

    def test_without_a_gpu_it_is_said(self, rtx: Path, tmp_path: Path, image: Path) -> None:
        assert "CUDA cannot find a GPU" in refused(on(rtx, None, RTX), of_rtx(tmp_path / "rtx"), image)

    @pytest.mark.parametrize(
        ("behaviour", "said"),
        [
            ("zeros", "does not compute on this GPU what was validated: all 1728 outputs are 0"),
            ("nan", "outputs are not finite"),
            ("off", r"samples differ by up to 0\.5 \(bound"),
            ("logs", "logged an error and went on: Error Code 1: no kernel image"),
            ("fails", "does not run the engine"),
            ("hosted", "refuses the engine: Error Code 4: the plan is damaged"),
            ("half", r"images of shape \(-1, 3, 12, 12\) is not that of floats"),
            ("three", "has 3 inputs and outputs, not 2"),
        ],
    )
    def test_a_wrong_engine_answers_nothing(
        self, rtx: Path, tmp_path: Path, image: Path, behaviour: str, said: str
    ) -> None:
        """The stub that logs an error does so after the samples, at the first image."""
        done = on(rtx, QUADRO, RTX)(of_rtx(tmp_path / "rtx", behaviour), image)
        assert done.returncode == 2
        assert re.search(said, done.stderr), done.stderr
        assert "model-sm75.engine" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout.count("\n") == (1 if behaviour == "logs" else 0)

    def test_an_engine_that_takes_no_single_image_is_filled_up(self, rtx: Path, tmp_path: Path, image: Path) -> None:
        assert_equal(on(rtx, QUADRO, RTX), of_rtx(tmp_path / "rtx", least=4), [image])

    @pytest.mark.parametrize("packed", [True, False])
    def test_samples_that_expect_otherwise_refuse_the_engine(
        self, rtx: Path, tmp_path: Path, image: Path, packed: bool
    ) -> None:
        artifact = of_rtx(tmp_path / "rtx", expected=lambda outputs: outputs[:, ::-1].copy(), packed=packed)
        assert "the stored samples differ" in refused(on(rtx, QUADRO, RTX), artifact, image)
        assert_equal(on(rtx, QUADRO, RTX), of_rtx(tmp_path / "right", packed=packed), [image])

    def test_samples_that_are_none_are_refused(self, rtx: Path, tmp_path: Path, image: Path) -> None:
        artifact = open_artifact(of_rtx(tmp_path / "rtx"))
        path = artifact.folder / SAMPLES_FILE
        whole = path.read_bytes()
        middle = len(whole) // 2
        damaged = (b"", b"no zip", whole[:middle], whole[:middle] + bytes(8) + whole[middle + 8 :])
        others = io.BytesIO()
        np.savez(others, pixels=PIXELS, expected=np.zeros((4, 3), np.float32))
        for content in (*damaged, others.getvalue()):
            path.write_bytes(content)
            update_manifest(artifact, files={**artifact.manifest.files, SAMPLES_FILE: record_of(path)})
            assert SAMPLES_FILE in refused(on(rtx, QUADRO, RTX), artifact.folder, image)
        files = {name: record for name, record in artifact.manifest.files.items() if name != SAMPLES_FILE}
        update_manifest(artifact, files=files)
        assert "holds no samples.npz" in refused(on(rtx, QUADRO, RTX), artifact.folder, image)

    def test_a_changed_byte_of_an_engine_is_refused(self, rtx: Path, tmp_path: Path, image: Path) -> None:
        artifact = of_rtx(tmp_path / "rtx")
        (artifact / "model-sm75.engine").write_text(f"3 {SIZE} {SIZE} 1 wrong")
        assert "model-sm75.engine: has changed" in refused(on(rtx, QUADRO, RTX), artifact, image)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("card", "version", "said"),
    [
        (ADA, RTX, r"holds engines for sm75, sm86, here is NVIDIA L4 \(sm89\); export .*--for sm89"),
        (T4, "1.7.1.117", r"built by TensorRT for RTX 1\.7\.1\.116, here is 1\.7\.1\.117; install that version"),
    ],
)
def test_an_engine_of_another_card_or_release_is_refused(
    rtx: Path, tmp_path: Path, image: Path, card: str, version: str, said: str
) -> None:
    assert re.search(said, refused(on(rtx, card, version), of_rtx(tmp_path / "rtx"), image))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "card", "version", "said"),
    [
        ({}, QUADRO, "11.4.0.200", ""),
        ({}, QUADRO, "11.5.0.1", r"built by TensorRT 11\.4\.0\.106, here is 11\.5\.0\.1"),
        ({}, T4, FULL, r"built for Quadro RTX 6000 \(compute capability 7\.5\), here is Tesla T4"),
        ({"hardware": "same-compute-capability"}, T4, FULL, ""),
        ({"hardware": "same-compute-capability"}, ADA, FULL, r"here is NVIDIA L4 \(8\.9\)"),
        ({"hardware": "ampere-plus"}, ADA, FULL, ""),
        ({"hardware": "ampere-plus"}, QUADRO, FULL, "here is Quadro RTX 6000"),
        ({"version_compatible": True, "behaviour": "hosted"}, QUADRO, "11.5.0.1", ""),
        ({"version_compatible": True}, QUADRO, "10.13.3.9", r"here is 10\.13\.3\.9"),
    ],
)
def test_full_tensorrt_s_engines_run_where_the_package_runs_them(
    full: Path, tmp_path: Path, image: Path, profile: dict[str, Any], card: str, version: str, said: str
) -> None:
    """The cases are those of the Python runtime's own test."""
    artifact, program = of_full(tmp_path / "full", **profile), on(full, card, version)
    if said:
        assert re.search(said, refused(program, artifact, image))
    else:
        assert program(artifact, image).returncode == 0


@pytest.mark.slow
def test_an_artifact_of_the_other_edition_is_refused(full: Path, rtx: Path, tmp_path: Path, image: Path) -> None:
    assert "export with --format trt-rtx" in refused(on(rtx, QUADRO, RTX), of_full(tmp_path / "full"), image)
    assert "export with --format trt\n" in refused(on(full, QUADRO, FULL), of_rtx(tmp_path / "rtx"), image)
    assert "holds no engine of TensorRT for RTX" in refused(on(rtx, QUADRO, RTX), identity(tmp_path / "plain"), image)
