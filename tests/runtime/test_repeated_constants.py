"""A constant that is repeated for every image, as a class token is, has a size that is told without running it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.errors import IntegrityError
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.runtime.graph_size import refuse_oversized
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import build


def repeated(path: Path, sizes: tuple[int, int], *, of: str = "images") -> Path:
    """A (1, 1, 8) constant, expanded to the first size of a tensor and to `sizes`."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3])
    nodes = [
        helper.make_node("NonZero", ["images"], ["places"]),
        helper.make_node("Shape", [of], ["first"], start=0, end=1),
        helper.make_node("Concat", ["first", "tokens", "width"], ["shape"], axis=0),
        helper.make_node("Expand", ["token", "shape"], ["output"]),
    ]
    held = {
        "token": np.ones((1, 1, 8), np.float32),
        **{name: np.array([size]) for name, size in zip(("tokens", "width"), sizes, strict=True)},
    }
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [images], [output], [numpy_helper.from_array(value, name) for name, value in held.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_a_token_for_every_image_passes(tmp_path: Path) -> None:
    refuse_oversized(repeated(tmp_path / "model.onnx", (1, 8)))
    refuse_oversized(repeated(tmp_path / "model.onnx", (4, 1)))


@pytest.mark.parametrize(
    ("sizes", "of", "message"),
    [
        ((2**40, 8), "images", r"would take 32,768\.0 GiB for one image"),
        # As many as there are numbers unlike zero is no batch.
        ((1, 8), "places", "of a size that only running it would tell"),
    ],
)
def test_any_other_is_refused(sizes: tuple[int, int], of: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=message):
        refuse_oversized(repeated(tmp_path / "model.onnx", sizes, of=of))


def test_a_batch_that_only_the_file_says_is_none(tmp_path: Path) -> None:
    path = repeated(tmp_path / "model.onnx", (1, 8), of="flat")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "all"))
    model.graph.node.insert(0, helper.make_node("Reshape", ["images", "all"], ["flat"]))
    model.graph.value_info.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch"]))
    onnx.save(model, path)
    with pytest.raises(IntegrityError, match="of a size that only running it would tell"):
        refuse_oversized(path)


def test_a_transformer_s_graph_passes(tmp_path: Path) -> None:
    spec = ModelSpec(backbone="timm:test_vit", method="ttl", cut="stem", classes=("a", "b"), image_size=160)
    onnx.save(to_onnx(build(spec).eval()), tmp_path / "model.onnx")
    refuse_oversized(tmp_path / "model.onnx")
