"""Words of other tools lead to what was meant; what means nothing is refused with the valid names."""

from pathlib import Path

import pytest

from ttl_deploy.aliases import PRECISIONS, device_of, meant
from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.export_run import choose
from ttl_deploy.formats.exporter import EXPORTERS
from ttl_deploy.runtime import RUNTIMES
from ttl_deploy.training.engine import resolve_device, resolve_precision


@pytest.mark.parametrize("word", ["cuda", "gpu", "GPU", "cuda:0", "gpu:0", "CUDA", "0"])
def test_words_for_the_gpu(word: str) -> None:
    assert device_of(word) == "cuda"


@pytest.mark.parametrize("word", ["cuda:1", "gpu:3", "1"])
def test_another_gpu_is_told_how_to_be_the_first(word: str) -> None:
    with pytest.raises(BadInputError, match=f"CUDA_VISIBLE_DEVICES={word[-1]}"):
        device_of(word)


@pytest.mark.parametrize("word", ["tpu", "mps", "cud", ""])
def test_an_unknown_device_names_the_known(word: str) -> None:
    with pytest.raises(BadInputError, match="valid: cpu, cuda"):
        device_of(word)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("half", "fp16"),
        ("float16", "fp16"),
        ("float32", "fp32"),
        ("FP32", "fp32"),
        ("bfloat16", "bf16"),
        ("INT8", "int8"),
    ],
)
def test_words_for_precisions(word: str, name: str) -> None:
    assert meant(word, PRECISIONS, ("fp32", "fp16", "bf16", "int8")) == name
    assert choose("onnx", word)[1] == name


def test_a_precision_of_training_by_another_word() -> None:
    assert resolve_precision("float32", "cpu")[0] == "fp32"
    assert resolve_precision("bfloat16", "cpu")[0] == "bf16"
    assert resolve_device("CPU") == "cpu"


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("engine", "trt"),
        ("tensorrt", "trt"),
        ("TensorRT", "trt"),
        ("TensorRT_RTX", "trt-rtx"),
        ("onnxruntime", "onnx"),
        ("ONNX", "onnx"),
        ("ir", "openvino"),
        ("pytorch", "pt2"),
        ("torch_trt", "torch-trt"),
        ("jit", "torchscript"),
    ],
)
def test_words_for_formats(word: str, name: str) -> None:
    assert EXPORTERS.get(word).name == name


@pytest.mark.parametrize(
    ("word", "name"), [("ort", "onnxruntime"), ("onnx", "onnxruntime"), ("pytorch", "torch"), ("trt", "tensorrt")]
)
def test_words_for_runtimes(word: str, name: str) -> None:
    assert RUNTIMES.get(word).name == name


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(BadInputError, match="onnx"):
        EXPORTERS.get("onxn")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "tpu"], "cuda"),
        (["--device", "cuda:1"], "CUDA_VISIBLE_DEVICES=1"),
        (["--runtime", "pytorch"], "valid for it: "),
        (["--runtime", "openvin"], "openvino"),
    ],
)
def test_verify_says_which_word_is_right(
    trained: Path, pixel_cache: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(trained / "onnx-fp32"), "--cache", str(pixel_cache), *options]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
