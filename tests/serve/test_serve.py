"""`serve` on loopback: right answers to Triton's own client and to plain requests, and no request that breaks it."""

import base64
import concurrent.futures
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.inputs.image import load_pixels, normalise
from ttl_deploy.prediction.predict import predict
from ttl_deploy.prediction.predictor import Prediction
from ttl_deploy.serve.model import ServedModel, served_name
from ttl_deploy.serve.server import Server
from ttl_deploy.spec import Placement, RequestLimits

LIMITS = RequestLimits(max_body_mib=1, timeout=60.0, max_concurrency=4)


@pytest.fixture(scope="module")
def model(trained: Path) -> Iterator[ServedModel]:
    with ServedModel(trained / "onnx-fp32", name="chest", max_batch=8, placement=Placement(threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(model: ServedModel) -> Iterator[Server]:
    with Server(model, port=0, limits=LIMITS) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def scans(synthetic: Path) -> list[Path]:
    return sorted(synthetic.glob("lesion/*.png"))[:3]


@pytest.fixture(scope="module")
def expected(trained: Path, scans: list[Path]) -> list[Prediction]:
    return list(predict(trained / "onnx-fp32", [str(scan) for scan in scans]))


def rows(predictions: list[Prediction]) -> list[list[float]]:
    return [list(p.probabilities.values()) for p in predictions]


def infer_body(**changes: Any) -> dict[str, Any]:
    """A good JSON request of one zero image of 32 pixels."""
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.0] * 3072}
    return {"inputs": [tensor | changes]}


INFER = "/v2/models/chest/infer"


class TestTritonClient:
    @pytest.fixture
    def triton(self, server: Server) -> Iterator[Any]:
        http_client = pytest.importorskip("tritonclient.http")
        opened = http_client.InferenceServerClient(server.url.removeprefix("http://"))
        yield opened
        opened.close()

    def test_health_and_metadata(self, triton: Any) -> None:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("chest")
        assert triton.is_model_ready("chest", "1")
        assert not triton.is_model_ready("thorax")
        assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
        facts = triton.get_model_metadata("chest")
        assert facts["inputs"][0] == {"name": "images", "datatype": "FP32", "shape": [-1, 3, 32, 32]}
        assert [output["name"] for output in facts["outputs"]] == ["logits", "probabilities", "label", "classes"]

    @pytest.mark.parametrize("binary", [True, False])
    def test_a_preprocessed_tensor(
        self, triton: Any, trained: Path, scans: list[Path], expected: list[Prediction], binary: bool
    ) -> None:
        from tritonclient.http import InferInput, InferRequestedOutput

        spec = open_artifact(trained / "onnx-fp32").manifest.preprocess
        batch = normalise(np.stack([load_pixels(scan, spec) for scan in scans]), spec)
        given = InferInput("images", list(batch.shape), "FP32")
        given.set_data_from_numpy(batch, binary_data=binary)
        names = ("logits", "probabilities", "label")
        outputs = [InferRequestedOutput(name, binary_data=binary) for name in names]
        answer = triton.infer("chest", [given], outputs=outputs, request_id="7")
        assert answer.get_response()["id"] == "7"
        np.testing.assert_allclose(answer.as_numpy("probabilities"), rows(expected), atol=1e-5)
        powers = np.exp(answer.as_numpy("logits"))
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), rows(expected), atol=1e-5)
        labels = [label if isinstance(label, str) else label.decode() for label in answer.as_numpy("label")]
        assert labels == [p.label for p in expected]
        assert answer.as_numpy("classes") is None

    def test_encoded_images(self, triton: Any, scans: list[Path], expected: list[Prediction]) -> None:
        """The server preprocesses; the default of Triton's client is binary both ways."""
        from tritonclient.http import InferInput

        given = InferInput("image", [len(scans)], "BYTES")
        given.set_data_from_numpy(np.array([scan.read_bytes() for scan in scans], dtype=object))
        answer = triton.infer("chest", [given], model_version="1")
        np.testing.assert_allclose(answer.as_numpy("probabilities"), rows(expected), atol=1e-5)
        assert list(answer.as_numpy("classes")) == [b"healthy", b"lesion"]

    @pytest.mark.parametrize("packed", ["gzip", "deflate"])
    def test_compressed_requests(self, triton: Any, scans: list[Path], expected: list[Prediction], packed: str) -> None:
        from tritonclient.http import InferInput

        given = InferInput("image", [len(scans)], "BYTES")
        given.set_data_from_numpy(np.array([scan.read_bytes() for scan in scans], dtype=object))
        answer = triton.infer(
            "chest", [given], request_compression_algorithm=packed, response_compression_algorithm=packed
        )
        np.testing.assert_allclose(answer.as_numpy("probabilities"), rows(expected), atol=1e-5)

    def test_repository_configuration_and_statistics(self, triton: Any, model: ServedModel) -> None:
        from tritonclient.http import InferInput

        assert triton.get_model_repository_index() == [
            {"name": "chest", "version": "1", "state": "READY", "reason": ""}
        ]
        for version in ("", "1"):
            config = triton.get_model_config("chest", version)
            assert config["name"] == "chest"
            assert config["input"][0]["dims"] == [-1, 3, 32, 32]
            assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_FP32", "TYPE_STRING"]
            assert [tensor["name"] for tensor in config["output"]][-2:] == ["label", "classes"]
        before = triton.get_inference_statistics("chest", "1")["model_stats"][0]
        given = InferInput("images", [2, 3, 32, 32], "FP32")
        given.set_data_from_numpy(np.zeros((2, 3, 32, 32), dtype=np.float32))
        triton.infer("chest", [given])
        for asked in (("chest", "1"), ("chest", ""), ("", "")):
            after = triton.get_inference_statistics(*asked)["model_stats"][0]
            assert after["inference_count"] == before["inference_count"] + 2
            assert after["execution_count"] == before["execution_count"] + 1
            succeeded = after["inference_stats"]["success"]
            assert succeeded["count"] == before["inference_stats"]["success"]["count"] + 1
            assert succeeded["ns"] >= after["inference_stats"]["compute_infer"]["ns"] > 0

    def test_other_models_and_versions_have_none(self, triton: Any) -> None:
        from tritonclient.utils import InferenceServerException

        for ask in (triton.get_model_config, triton.get_inference_statistics):
            for name, version in (("thorax", ""), ("chest", "2")):
                with pytest.raises(InferenceServerException, match="unknown model"):
                    ask(name, version)

    def test_its_error_is_ours(self, triton: Any) -> None:
        from tritonclient.http import InferInput
        from tritonclient.utils import InferenceServerException

        given = InferInput("images", [1, 3, 16, 16], "FP32")
        given.set_data_from_numpy(np.zeros((1, 3, 16, 16), dtype=np.float32))
        with pytest.raises(InferenceServerException, match=r"expected \[N, 3, 32, 32\]"):
            triton.infer("chest", [given])


def test_images_as_base64_in_json(client: httpx.Client, scans: list[Path], expected: list[Prediction]) -> None:
    data = [base64.b64encode(scan.read_bytes()).decode() for scan in scans]
    answer = client.post(INFER, json={"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": data}]})
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert outputs["probabilities"]["shape"] == [3, 2]
    np.testing.assert_allclose(np.reshape(outputs["probabilities"]["data"], (3, 2)), rows(expected), atol=1e-5)
    assert outputs["label"]["data"] == [p.label for p in expected]


class TestAGraphWithItsOwnEnds:
    """Preprocessing and the activation inside: pixels in, probabilities out, and no logits to ask for."""

    @pytest.fixture(scope="class")
    @staticmethod
    def embedded(trained: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
        place = tmp_path_factory.mktemp("embedded") / "artifact"
        export_run(trained, out=place, cache=pixel_cache, embed_preprocessing=True, activation="softmax")
        with (
            ServedModel(place, name="chest", max_batch=8, placement=Placement(threads=1)) as opened,
            Server(opened, port=0, limits=LIMITS) as running,
            httpx.Client(base_url=running.url, timeout=120, trust_env=False) as client,
        ):
            yield client

    @staticmethod
    def body(pixels: Any, **changes: Any) -> dict[str, Any]:
        tensor = {"name": "images", "datatype": "UINT8", "shape": list(np.shape(pixels))}
        return {"inputs": [tensor | {"data": np.ravel(pixels).tolist()} | changes]}

    def test_images_and_pixels_get_the_plain_graphs_probabilities(
        self, embedded: httpx.Client, trained: Path, scans: list[Path], expected: list[Prediction]
    ) -> None:
        spec = open_artifact(trained / "onnx-fp32").manifest.preprocess
        pixels = np.stack([load_pixels(scan, spec) for scan in scans])
        encoded = [base64.b64encode(scan.read_bytes()).decode() for scan in scans]
        images = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": encoded}]}
        for body in (images, self.body(pixels)):
            answer = embedded.post(INFER, json=body)
            assert answer.status_code == 200, answer.text
            outputs = {output["name"]: output for output in answer.json()["outputs"]}
            assert list(outputs) == ["probabilities", "label", "classes"]
            np.testing.assert_allclose(np.reshape(outputs["probabilities"]["data"], (3, 2)), rows(expected), atol=1e-5)

    def test_metadata(self, embedded: httpx.Client) -> None:
        facts = embedded.get("/v2/models/chest").json()
        assert facts["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
        assert [output["name"] for output in facts["outputs"]] == ["probabilities", "label", "classes"]

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"datatype": "FP32"}, "expected UINT8"),
            ({"data": [256] * 3072}, "not numbers"),
            ({"data": [0.5] * 3072}, "not numbers"),
            ({"data": [float("nan")] * 3072}, "not numbers"),
            ({"shape": [1, 3, 32, 32]}, "expected [N, 32, 32, 3]"),
        ],
    )
    def test_bad_pixels_are_told(self, embedded: httpx.Client, changes: dict[str, Any], said: str) -> None:
        body = self.body(np.zeros((1, 32, 32, 3), dtype=np.uint8), **changes)
        answer = embedded.post(INFER, content=json.dumps(body))
        assert answer.status_code == 400
        assert said in answer.json()["error"]

    def test_logits_cannot_be_asked_for(self, embedded: httpx.Client) -> None:
        body = self.body(np.zeros((1, 32, 32, 3), dtype=np.uint8)) | {"outputs": [{"name": "logits"}]}
        answer = embedded.post(INFER, json=body)
        assert answer.status_code == 400
        assert "valid: probabilities, label, classes" in answer.json()["error"]


@pytest.mark.parametrize("way", ["raw", "form"])
def test_predict_of_one_image(client: httpx.Client, scans: list[Path], expected: list[Prediction], way: str) -> None:
    content = scans[0].read_bytes()
    more: dict[str, Any] = {"content": content} if way == "raw" else {"files": {"image": ("a.png", content)}}
    answer = client.post("/predict", **more)
    assert answer.status_code == 200, answer.text
    assert answer.json()["probabilities"] == pytest.approx(expected[0].probabilities, abs=1e-5)
    assert answer.json()["label"] == expected[0].label


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "inputs"),
        (b'{"inputs": [' * 5000, "JSON"),
        (json.dumps({"inputs": [{"name": "x"}]}).encode(), "'x'"),
        (json.dumps(infer_body(shape=[1, 3, 32, 31])).encode(), "3072 values"),
        (json.dumps(infer_body(shape=[3072])).encode(), "expected [N, 3, 32, 32]"),
        (json.dumps(infer_body(shape="x")).encode(), "shape"),
        (json.dumps(infer_body(shape=[-1, 3, 32, 32])).encode(), "shape"),
        (json.dumps(infer_body(shape=[0, 3, 32, 32], data=[])).encode(), "0 images"),
        (json.dumps(infer_body(datatype="FP64")).encode(), "FP64"),
        (json.dumps(infer_body(datatype="BYTES")).encode(), "expected FP32"),
        (json.dumps(infer_body(data=["a"] * 3072)).encode(), "not numbers"),
        (json.dumps(infer_body(data=None)).encode(), "values"),
        (json.dumps(infer_body(data=[float("nan")] * 3072)).encode(), "finite"),
        (json.dumps(infer_body(shape=[9, 3, 32, 32], data=[0] * 9 * 3072)).encode(), "1 to 8"),
        (json.dumps(infer_body(parameters={"binary_data_size": 99})).encode(), "99 bytes"),
        (json.dumps(infer_body(parameters={"binary_data_size": -1})).encode(), "binary_data_size"),
        (json.dumps(infer_body() | {"outputs": [{"name": "boxes"}]}).encode(), "'boxes'"),
        (json.dumps({"inputs": infer_body()["inputs"] * 2}).encode(), "once"),
        (json.dumps(infer_body(name="image", datatype="BYTES", shape=[1], data=["?"])).encode(), "base64"),
        (json.dumps(infer_body(name="image", datatype="BYTES", shape=[1], data=["aGk="])).encode(), "not an image"),
    ],
)
def test_bad_infer_requests_are_told(client: httpx.Client, content: bytes, said: str) -> None:
    answer = client.post(INFER, content=content)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]
    assert client.post(INFER, json=infer_body()).status_code == 200


@pytest.mark.parametrize("length", ["abc", "-1", "99999999", "9" * 400])
def test_a_wrong_header_length_is_told(client: httpx.Client, length: str) -> None:
    answer = client.post(INFER, content=b"{}", headers={"Inference-Header-Content-Length": length})
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 400),
        (b"not an image", {}, 400),
        (b"--x\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        (b"abc", {"Content-Type": "multipart/form-data"}, 400),
        (b"abc", {"Content-Encoding": "br"}, 415),
        (bytes(2**20 + 1), {}, 413),
    ],
)
def test_bad_images_are_told(client: httpx.Client, content: bytes, headers: dict[str, str], status: int) -> None:
    answer = client.post("/predict", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"].count("\n") == 0


def test_a_form_gives_back_every_byte() -> None:
    from ttl_deploy.serve.multipart import file_of

    content = np.random.default_rng(0).bytes(5000) + b"\r\n--\r\n\r\n--xyz\r\n"
    request = httpx.Request("POST", "http://x", data={"note": "hello"}, files={"f": ("a.png", content)})
    assert file_of(request.read(), request.headers["content-type"]) == content


def test_a_body_without_a_length_is_cut_off(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(2**16)

    # The answer may come, and the connection end, before the body is out.
    with contextlib.suppress(httpx.TransportError):
        assert client.post("/predict", content=endless()).status_code == 413
    assert client.get("/v2/health/live").json() == {"live": True}


def test_unknown_places(client: httpx.Client) -> None:
    for answer in (
        client.get("/nowhere"),
        client.get("/v2/models/thorax"),
        client.get("/v2/models/chest/versions/2"),
        client.post("/v2/models/thorax/infer", json=infer_body()),
    ):
        assert answer.status_code == 404
        assert "error" in answer.json()
    assert client.get("/predict").status_code == 405


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    def count() -> float:
        lines = client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith('ttl_deploy_requests_total{endpoint="infer",status="200"}')]
        return float(found[0].split()[-1]) if found else 0.0

    before = count()
    client.post(INFER, json=infer_body())
    assert count() == before + 1
    text = client.get("/metrics").text
    assert "ttl_deploy_in_flight 0.0" in text
    assert 'backbone="resnet18"' in text
    assert 'ttl_deploy_request_seconds_bucket{endpoint="infer",le="+Inf"}' in text


class TestLimits:
    @pytest.fixture
    def gated(self, model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, threading.Event]]:
        """A server whose model answers only after an event."""
        go = threading.Event()
        honest = model.of_images

        def slow(images: list[bytes]) -> Any:
            go.wait(120)
            return honest(images)

        monkeypatch.setattr(model, "of_images", slow)
        with Server(model, port=0, limits=RequestLimits(max_body_mib=1, timeout=0.5, max_concurrency=2)) as running:
            yield running, go
            go.set()

    def test_slow_answers_and_too_many_requests(self, gated: tuple[Server, threading.Event], scans: list[Path]) -> None:
        """Work that outlives its client keeps its place, so that a slow model cannot be piled up on."""
        server, go = gated
        content = scans[0].read_bytes()

        def post(_: int) -> httpx.Response:
            return httpx.post(f"{server.url}/predict", content=content, timeout=120, trust_env=False)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert [answer.status_code for answer in pool.map(post, range(2))] == [504, 504]
        busy = post(0)
        assert busy.status_code == 503
        assert busy.headers["Retry-After"] == "1"
        assert httpx.get(f"{server.url}/v2/health/ready", trust_env=False, timeout=120).status_code == 200
        go.set()
        until(lambda: post(0).status_code == 200)

    def test_a_body_that_never_comes(self, gated: tuple[Server, threading.Event]) -> None:
        host, port = gated[0].url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
            assert b" 408 " in slow.recv(4096).splitlines()[0]

    def test_a_client_that_goes_away(self, gated: tuple[Server, threading.Event]) -> None:
        host, port = gated[0].url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as leaving:
            leaving.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert httpx.get(f"{gated[0].url}/v2/health/live", trust_env=False, timeout=120).status_code == 200

    def test_garbage_on_the_line(self, gated: tuple[Server, threading.Event]) -> None:
        host, port = gated[0].url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=120) as rude:
            rude.sendall(b"\x00\xff\r\n\r\n")
            assert b" 400 " in rude.recv(4096).splitlines()[0]
        assert httpx.get(f"{gated[0].url}/v2/health/live", trust_env=False, timeout=120).status_code == 200


def until(done: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_what_no_check_foresaw_is_a_500_and_the_server_goes_on(
    model: ServedModel, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(model, "of_images", fail)
        answer = client.post("/predict", content=b"x")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text
    assert client.post(INFER, json=infer_body()).status_code == 200


def test_many_at_once_get_their_own_answers(trained: Path, synthetic: Path) -> None:
    """OpenVINO's request is not to be used by two threads at once; the model's sessions are taken in turns."""
    images = sorted(synthetic.glob("*/*.png"))[:24]
    wanted = rows(
        list(predict(trained / "onnx-fp32", [str(i) for i in images], placement=Placement(runtime="openvino")))
    )
    with (
        ServedModel(trained / "onnx-fp32", sessions=2, placement=Placement(runtime="openvino", threads=1)) as model,
        Server(model, port=0, limits=RequestLimits(max_concurrency=64)) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):

        def ask(image: Path) -> list[float]:
            answer = httpx.post(f"{server.url}/predict", content=image.read_bytes(), timeout=120, trust_env=False)
            return list(answer.json()["probabilities"].values())

        np.testing.assert_allclose(list(pool.map(ask, images)), wanted, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_without_torch_and_stops_on_a_signal(
    trained: Path, scans: list[Path], number: signal.Signals
) -> None:
    code = (
        "import sys\nfrom ttl_deploy.cli.main import run\n"
        f"code = run(['serve', {str(trained / 'onnx-fp32')!r}, '--port', '0', '--threads', '1'])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http")).rstrip(";")
        assert (
            httpx.post(f"{url}/predict", content=scans[0].read_bytes(), trust_env=False, timeout=120).status_code == 200
        )
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")


def test_a_request_under_way_is_answered_before_the_server_stops(
    model: ServedModel, scans: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, begun = model.of_images, threading.Event()

    def slow(images: list[bytes]) -> Any:
        begun.set()
        time.sleep(0.5)
        return honest(images)

    monkeypatch.setattr(model, "of_images", slow)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with Server(model, port=0) as server:
            content = scans[0].read_bytes()
            late = pool.submit(
                lambda: httpx.post(f"{server.url}/predict", content=content, trust_env=False, timeout=120)
            )
            assert begun.wait(120)
        assert late.result(120).status_code == 200


def test_a_port_that_is_taken_is_told(model: ServedModel, server: Server) -> None:
    with pytest.raises(BadInputError, match="cannot listen"):
        Server(model, port=int(server.url.rsplit(":", 1)[1]))
    with pytest.raises(BadInputError, match="cannot listen"):
        Server(model, host="no.such.host.invalid", port=0)


def test_names(trained: Path) -> None:
    artifact = open_artifact(trained / "onnx-fp32")
    assert served_name(artifact) == "tiny"
    assert served_name(artifact, "a.b-1") == "a.b-1"
    for bad in ("", "a/b", "../x", "é", "a" * 200):
        with pytest.raises(BadInputError, match="cannot name a model"):
            served_name(artifact, bad)
