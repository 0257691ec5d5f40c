"""What a request may hold: more is refused before it costs memory, and nothing that is wrong becomes a 500."""

from __future__ import annotations

import copy
import gzip
import json
import random
import zlib
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from ttl_deploy.serve import encoding
from ttl_deploy.serve.bounded_json import JsonLimits, parse_object
from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.multipart import file_of
from ttl_deploy.serve.request_error import RequestError

INFER = "/v2/models/tiny/infer"
MIB = 2**20


def tensor(**changes: Any) -> dict[str, Any]:
    entry = {"name": "images", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.5] * 192}
    return {"inputs": [entry | changes]}


def image(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGk="]} | changes]}


def refused(client: httpx.Client, content: bytes, headers: dict[str, str] | None = None) -> str:
    """The one clear line of a request that must be refused with 400."""
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    said = str(answer.json()["error"])
    assert "\n" not in said
    assert len(said) < 400
    return said


@pytest.mark.parametrize("unit", [b"{},", b"[],", b'"",', b'{"a":[]},', b"1,", b"[[", b'{"a":'])
def test_a_large_body_of_tiny_things_is_refused_before_it_is_parsed(tiny_client: httpx.Client, unit: bytes) -> None:
    """Empty objects once became 160 times their text, and stayed."""
    process = psutil.Process()
    before = process.memory_info().rss
    body = b'{"inputs": [' + unit * (24 * MIB // len(unit)) + b"1]}"
    assert "JSON" in refused(tiny_client, body)
    assert process.memory_info().rss - before < 300 * MIB


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 900, "JSON"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "object"),
        (b"\xff\xfe{\x00}\x00", "JSON"),
        (b'"' + b"x" * 10, "JSON"),
        (b"1" * 5000, "JSON"),
        (b"nan", "JSON"),
    ],
)
def test_what_is_no_object_or_too_much_is_told(text: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_object(text, JsonLimits(values=10, arrays=1000, strings=300, objects=100))


def test_the_largest_honest_request_is_within_the_limits(tiny: ServedModel, tiny_client: httpx.Client) -> None:
    batch = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
    wanted = tiny.of_tensor(batch).probabilities
    for data in (batch.ravel().tolist(), batch.tolist()):
        answer = tiny_client.post(INFER, json=tensor(shape=[8, 3, 8, 8], data=data))
        found = next(out["data"] for out in answer.json()["outputs"] if out["name"] == "probabilities")
        np.testing.assert_allclose(np.reshape(found, wanted.shape), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "data", [5, 5.5, True, "abc", "", {"a": 1}, [{}], [[["aGk="]]], [None], [True], [1], [["aGk=", "aGk="]], [[]]]
)
def test_data_of_an_image_that_is_no_list_of_strings(tiny_client: httpx.Client, data: Any) -> None:
    assert "image" in refused(tiny_client, json.dumps(image(data=data)).encode())


@pytest.mark.parametrize(
    "data",
    [
        5,
        None,
        "abc",
        {"0": 1},
        ["0.5"] * 192,
        [True] * 192,
        [None] * 192,
        [0.5] * 191 + ["0.5"],
        [0.5] * 191 + [False],
        [0.5] * 191 + [{}],
        [0.5] * 191 + [[0.5]],
        [10**400] * 192,
        [1e300] * 192,
        np.zeros((1, 8, 8, 3)).tolist(),
        np.zeros((8, 24)).tolist(),
        np.zeros((1, 3, 64)).tolist(),
        np.zeros((1, 3, 8, 8, 1)).tolist(),
        [[[[0.5] * 8] * 8, [[0.5] * 8] * 8, [[0.5] * 8] * 7 + [[0.5] * 7]]],
        [[]],
    ],
)
def test_data_of_a_tensor_that_are_not_its_numbers(tiny_client: httpx.Client, data: Any) -> None:
    """Strings were once taken for the numbers they spell, and any nesting for the right one."""
    assert "images" in refused(tiny_client, json.dumps(tensor(data=data)).encode())


@pytest.mark.parametrize(
    "content",
    [
        tensor() | {"parameters": {"binary_data_output": "yes"}},
        tensor() | {"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]},
        tensor() | {"outputs": [{"name": ["label"]}]},
        tensor() | {"outputs": {"name": "label"}},
        tensor() | {"outputs": [[]]},
        tensor() | {"id": 7},
        tensor() | {"parameters": []},
        tensor(shape=[1, 3, 8, 8.0]),
        tensor(shape=[[1], 3, 8, 8]),
        tensor(shape=list(range(100_000))),
        tensor(datatype=["FP32"] * 4000),
        tensor(name="\ud800"),
        tensor(name="x" * 100_000),
        tensor(parameters={"binary_data_size": 10**30}),
        tensor(parameters={"binary_data_size": 0}),
        image(shape=[2**31]),
    ],
)
def test_fields_of_the_wrong_type_are_told(tiny_client: httpx.Client, content: dict[str, Any]) -> None:
    refused(tiny_client, json.dumps(content).encode())


def test_a_thousand_mutated_requests_are_answered_or_refused(tiny_client: httpx.Client) -> None:
    """Any value in any place: 200 or 400, never 500."""
    generator = random.Random(12)
    strange: list[Any] = [None, True, 0, -1, 2**64, 0.5, "", "x", "FP32", [], [[]], {}, {"a": [1]}, [5], ["x"], 1e308]
    seen = set()
    for _ in range(1000):
        content = json.loads(json.dumps(generator.choice([tensor(), image()])))
        content["outputs"] = [{"name": "label", "parameters": {"binary_data": False}}]
        for _ in range(generator.choice([1, 1, 2])):
            mutate(content, generator, strange)
        answer = tiny_client.post(INFER, content=json.dumps(content))
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400), (content, answer.text)
    assert seen == {200, 400}


def mutate(content: Any, generator: random.Random, strange: list[Any]) -> None:
    """Puts something strange in a random place."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = generator.choice([*keys, "data", "parameters"] if isinstance(content, dict) else keys)
        inside = content.get(key) if isinstance(content, dict) else content[key]
        if not isinstance(inside, dict | list) or not inside or generator.random() < 0.3:
            content[key] = copy.deepcopy(generator.choice(strange))
            return
        content = inside


def test_millions_of_parts_are_refused_before_they_are_taken_apart() -> None:
    kind, part = "multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n"
    with pytest.raises(RequestError, match="more than 64 parts"):
        file_of(part * 3_500_000 + b"--x--\r\n", kind)


def test_a_part_with_a_header_without_end_is_refused() -> None:
    with pytest.raises(RequestError, match="header is too long"):
        file_of(b"--x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n\r\nabc\r\n--x--\r\n", "multipart/form-data; boundary=x")


def test_a_form_with_two_files_is_refused_and_documented_so(tiny_client: httpx.Client, png: bytes) -> None:
    answer = tiny_client.post("/predict", files=[("a", ("a.png", png)), ("b", ("b.png", png))])
    assert answer.status_code == 400
    assert "2 files" in answer.json()["error"]
    assert "several files" in tiny_client.get("/openapi.json").json()["paths"]["/predict"]["post"]["description"]


class TestCompressedBodies:
    @pytest.mark.parametrize(
        ("coding", "pack"),
        [
            ("gzip", gzip.compress),
            ("GZIP", gzip.compress),
            ("deflate", zlib.compress),
            ("deflate", lambda body: zlib.compressobj(wbits=-15).compress(body) + b""),
            ("gzip", lambda body: gzip.compress(body[:50]) + gzip.compress(body[50:])),
        ],
        ids=["gzip", "upper case", "deflate", "raw deflate", "two members"],
    )
    def test_a_compressed_image_gets_the_answer_of_the_plain_one(
        self, tiny_client: httpx.Client, png: bytes, coding: str, pack: Any
    ) -> None:
        packed = pack(png)
        if pack(b"") == b"":  # a raw stream without its end
            stream = zlib.compressobj(wbits=-15)
            packed = stream.compress(png) + stream.flush()
        answer = tiny_client.post("/predict", content=packed, headers={"Content-Encoding": coding})
        assert answer.status_code == 200, answer.text
        assert answer.json() == tiny_client.post("/predict", content=png).json()

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_damage_is_told(self, tiny_client: httpx.Client, coding: str) -> None:
        whole = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](bytes(range(256)) * 4)
        for body in (b"", b"abc", whole[:-6], whole[:8], whole + b"more"):
            answer = tiny_client.post("/predict", content=body, headers={"Content-Encoding": coding})
            assert answer.status_code == 400
            assert coding in answer.json()["error"]

    def test_a_bomb_goes_off_within_bounds(self) -> None:
        bomb = zlib.compress(bytes(200 * MIB))
        process = psutil.Process()
        before = process.memory_info().rss
        with pytest.raises(RequestError, match="decompressed body is larger") as caught:
            encoding.decoded(bomb, "deflate", MIB)
        assert caught.value.status == 413
        assert process.memory_info().rss - before < 20 * MIB

    def test_endless_empty_members_are_refused(self) -> None:
        with pytest.raises(RequestError, match="not valid gzip"):
            encoding.decoded(gzip.compress(b"") * 500_000, "gzip", MIB)

    @pytest.mark.parametrize("coding", ["br", "gzip, gzip", "x", "\xe9"])
    def test_other_codings_are_415(self, tiny_client: httpx.Client, coding: str) -> None:
        headers = {b"Content-Encoding": coding.encode("latin-1")}
        assert tiny_client.post("/predict", content=b"abc", headers=headers).status_code == 415
