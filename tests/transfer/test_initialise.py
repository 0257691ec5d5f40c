import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from odd_archives import of_two_disks
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from ttl_deploy.errors import WeightsError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import TransferModel, build, initialise
from ttl_deploy.transfer.initialise import read_weights, tensors_sha256
from ttl_deploy.zoo import BACKBONES


def ttl(channels: int = 3, cut: str = "layer2") -> TransferModel:
    return build(ModelSpec(backbone="resnet18", method="ttl", cut=cut, classes=("a", "b"), channels=channels))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return models.resnet18()


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.backbone.", "module.encoder."])
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_foreign_checkpoints_load(tmp_path: Path, network: nn.Module, prefix: str, wrapper: str | None) -> None:
    state = {prefix + k: v for k, v in network.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "w.pth")
    model = ttl()
    report = initialise(model, str(tmp_path / "w.pth"))
    assert report.matched == report.wanted
    assert not report.missing
    assert "tensors of the reused layers loaded" in str(report)
    for name, tensor in model.network_state().items():
        if not name.startswith("head."):
            torch.testing.assert_close(tensor, network.state_dict()[name])


def test_safetensors_load_and_count_what_is_dropped(tmp_path: Path, network: nn.Module) -> None:
    save_file({k: v.clone() for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    report = initialise(ttl(), str(tmp_path / "w.safetensors"))
    above = [k for k in network.state_dict() if k.startswith(("layer3", "layer4", "fc"))]
    assert report.unused == len([k for k in above if not k.endswith("num_batches_tracked")])


def test_a_file_is_known_by_its_own_hash(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    sha256 = initialise(ttl(), str(tmp_path / "w.pth")).sha256
    assert sha256 == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert initialise(ttl(), "random").sha256 is None
    assert initialise(ttl(), str(tmp_path / "w.pth"), "random").sha256 is None


def test_the_hash_of_tensors_is_of_every_name_shape_type_and_number(network: nn.Module) -> None:
    state = network.state_dict()
    sha256 = tensors_sha256(state)
    assert tensors_sha256(dict(reversed(state.items()))) == sha256
    first = "conv1.weight"
    others: list[dict[str, torch.Tensor]] = [
        {name: tensor for name, tensor in state.items() if name != first},
        {**state, first: state[first].flatten()},
        {**state, first: state[first].view(torch.int32)},
        {**state, first: state[first].nextafter(torch.tensor(1.0))},
        {**state, "fc.bias": state["bn1.num_batches_tracked"]},
    ]
    assert len({sha256, *map(tensors_sha256, others)}) == 6


def test_imagenets_weights_are_known_by_their_tensors(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    state = network.state_dict()
    monkeypatch.setattr(type(BACKBONES.get("resnet18")), "pretrained", lambda _self: state)
    assert initialise(ttl(), "imagenet").sha256 == tensors_sha256(state)


def test_partial_weights_are_counted(tmp_path: Path, network: nn.Module) -> None:
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("layer2.1.")}
    torch.save(state, tmp_path / "w.pth")
    report = initialise(ttl(), str(tmp_path / "w.pth"))
    assert len(report.missing) == 10
    assert all(name.startswith("layer2.1.") for name in report.missing)


def test_none_matching_is_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"none of the 50 tensors .* 'a\.weight'"):
        initialise(ttl(), str(tmp_path / "w.pth"))


def test_grey_input_sums_the_first_convolution(tmp_path: Path, network: nn.Module) -> None:
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = ttl(channels=1, cut="stem")
    report = initialise(model, str(tmp_path / "w.pth"))
    assert report.adapted
    colour = ttl(cut="stem").eval()
    initialise(colour, str(tmp_path / "w.pth"))
    grey = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(model.eval().units["stem"](grey), colour.units["stem"](grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_channels_take_the_kernels_in_turn_as_timm_does_it(
    channels: int, tmp_path: Path, network: nn.Module
) -> None:
    timm = pytest.importorskip("timm.models")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = ttl(channels=channels, cut="stem")
    assert initialise(model, str(tmp_path / "w.pth")).adapted
    first = next(model.units["stem"].parameters())
    torch.testing.assert_close(first.data, timm.adapt_input_conv(channels, network.state_dict()["conv1.weight"]))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_no_pickle_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="never loaded"):
        initialise(ttl(), str(tmp_path / "w.pth"))
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError):
        initialise(ttl(), str(tmp_path / "p.pth"))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [("w.pth", b""), ("w.pth", b"not a zip"), ("w.safetensors", b"\x08\0\0\0\0\0\0\0{}"), ("w.pt", b"PK")],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError):
        initialise(ttl(), str(tmp_path / name))


@pytest.mark.parametrize("damage", [of_two_disks, lambda archive: archive + bytes(2**17), lambda archive: archive[:-1]])
def test_an_archive_with_an_odd_end_is_damaged(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """PyTorch may see an archive where Python's reader, which counts what it claims to hold, sees none."""
    sound = io.BytesIO()
    torch.save({"conv1.weight": torch.ones(2, 3)}, sound)
    (tmp_path / "w.pth").write_bytes(damage(sound.getvalue()))
    with pytest.raises(WeightsError, match=r"w\.pth: is damaged or not a file of weights"):
        initialise(ttl(), str(tmp_path / "w.pth"))


def test_missing_files_and_unfinished_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        initialise(ttl(), str(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match="not a finished run"):
        initialise(ttl(), str(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var", "fc.bias"])
def test_a_file_with_a_value_that_is_no_number_is_refused(tmp_path: Path, value: float, suffix: str, name: str) -> None:
    """In a weight, in a statistic of a batch norm, in a layer that would be dropped."""
    state = {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.running_var": torch.ones(64), "fc.bias": torch.ones(9)}
    state[name].view(-1)[5] = value
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, file)
    else:
        save_file(state, file)
    with pytest.raises(WeightsError, match=rf"weights{suffix}: holds values that are not finite numbers, in '{name}'"):
        read_weights(file)


def test_eight_bit_and_half_precision_weights_are_looked_at_too(tmp_path: Path) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        good = torch.ones(3).to(kind)
        save_file({"a": good}, tmp_path / "good.safetensors")
        assert set(read_weights(tmp_path / "good.safetensors")) == {"a"}
        bad = torch.tensor([1.0, float("nan")]).to(kind)
        save_file({"a": bad}, tmp_path / "bad.safetensors")
        with pytest.raises(WeightsError, match="not finite"):
            read_weights(tmp_path / "bad.safetensors")


def test_a_run_whose_weights_became_no_numbers_is_refused(tmp_path: Path) -> None:
    """At the start of another training, at its export, and when it is resumed."""
    from ttl_deploy.errors import IntegrityError
    from ttl_deploy.training.checkpoint import Progress, last_content, load_best, load_last, save_best

    model = build(ModelSpec(backbone="resnet18", method="ttl", cut="layer1.1", classes=("a", "b"), image_size=32))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    save_best(tmp_path, model, 1)
    with pytest.raises(WeightsError, match="not finite"):
        read_weights(tmp_path)
    with pytest.raises(IntegrityError, match=r"best\.safetensors: holds values that are not finite"):
        load_best(tmp_path, model)
    (tmp_path / "last.ckpt").write_bytes(last_content(Progress(), {"model": model.state_dict()}))
    with pytest.raises(IntegrityError, match=r"last\.ckpt: holds values that are not finite"):
        load_last(tmp_path)
