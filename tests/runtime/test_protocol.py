"""Messages of the Open Inference Protocol, against the client that its authors wrote, and against what is no message."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError
from offramp.runtime.protocol import (
    DATATYPES,
    read_request,
    read_response,
    write_request,
    write_response,
)


def make(dtype):
    return (np.arange(6).reshape(2, 3) % 2).astype(dtype)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and (a == b).all()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DATATYPES)
def test_a_tensor_comes_back_as_it_was(dtype, binary):
    x = make(dtype)
    request = read_request(*write_request({"x": x}, binary=binary, outputs=["y"], parameters={"deadline_s": 0.5}))
    assert same(request.inputs["x"].read(), x)
    assert request.wants_binary("y") == binary and request.parameters["deadline_s"] == 0.5
    response = write_response({"y": x, "none": x[:0]}, model="m", version="1", binary=["y"] if binary else (), id="7")
    read = read_response(*response)
    assert same(read.outputs["y"].read(), x) and same(read.outputs["none"].read(), x[:0])
    assert (read.model, read.version, read.id) == ("m", "1", "7")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DATATYPES)
def test_tritons_client_writes_what_is_read_and_reads_what_is_written(dtype, binary):
    x, client = make(dtype), triton.InferenceServerClient
    sent = triton.InferInput("x", x.shape, DATATYPES[dtype]).set_data_from_numpy(x, binary_data=binary)
    asked = triton.InferRequestedOutput("y", binary_data=binary)
    request = read_request(*client.generate_request_body([sent], outputs=[asked], request_id="7"))
    assert same(request.inputs["x"].read(), x) and request.wants_binary("y") == binary and request.id == "7"
    message = write_response({"y": x}, model="m", version="1", binary=["y"] if binary else ())
    assert same(client.parse_response_body(message.body, header_length=message.json_bytes).as_numpy("y"), x)


def read(shape, data, datatype="FP32"):
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": "HERE"}
    body = json.dumps({"inputs": [tensor]}).replace('"HERE"', data).encode()
    return read_request(body).inputs["x"].read()


def test_values_are_flat_or_nested_as_the_shape():
    for data in ("[1, 2, 3, 4]", "[[1,2],[3 ,4]]"):
        assert read([2, 2], data).tolist() == [[1, 2], [3, 4]]
    assert read([0, 3], "[]").shape == (0, 3) and read([], "[1]").shape == ()
    assert read([2], "[0, 18446744073709551615]", "UINT64")[1] == 2**64 - 1


@pytest.mark.parametrize(
    ("shape", "data", "datatype"),
    [
        ([2, 2], "[1, 2, 3]", "FP32"),
        ([2, 2], "[[1, 2, 3], [4]]", "FP32"),
        ([2], '["1", "2"]', "FP32"),
        ([2], '{"a": 1, "b": 2}', "FP32"),
        ([2], "[null, 1]", "FP32"),
        ([2], "[NaN, 1]", "FP32"),
        ([2], "[true, 1]", "FP32"),
        ([2], "[0, 1]", "BOOL"),
        ([2], "[1.5, 1]", "INT32"),
        ([2], "[1, 300]", "UINT8"),
        ([2], "[1, -1]", "UINT64"),
        ([2], f"[1, 1{'0' * 5000}]", "INT64"),
        ([2], "[1, 2]", "BF16"),
        ([10**15, 10**15], "[1]", "FP32"),
        ([0, 10**18], "[[]]", "FP32"),
        ([-1], "[1]", "FP32"),
        ([1] * 33, "[1]", "FP32"),
        ([2], "[" * 100_000 + "]" * 100_000, "FP32"),
    ],
)
def test_data_that_does_not_fit_is_refused_in_one_short_sentence(shape, data, datatype):
    with pytest.raises(DataError) as refused:
        read(shape, data, datatype)
    assert len(str(refused.value)) < 600


def body(*sizes, more=b"", **fields):
    """Return a binary request whose tensors state these sizes, and its length of JSON."""
    shape = {"shape": [2], "datatype": "BOOL"}
    tensors = [{"name": f"x{i}", **shape, "parameters": {"binary_data_size": size}} for i, size in enumerate(sizes)]
    text = json.dumps({"inputs": tensors} | fields).encode()
    return text + more, len(text)


@pytest.mark.parametrize(
    "message",
    [
        body(2, more=b"\0"),
        body(2, more=b"\0\0\0"),
        body(2, 2, more=b"\0\0\0"),
        body(-2, more=b"\0\0"),
        body(True, more=b"\0"),
        body(2.0, more=b"\0\0"),
        body("2", more=b"\0\0"),
        (body(2, more=b"\0\0")[0], 10**9),
        (body(2, more=b"\0\0")[0], -1),
        body(2, more=b"\0\0", inputs=[{"name": "x", "shape": [1], "datatype": "BOOL"}]),
        body(2, more=b"\0\0", parameters={str(i): 0 for i in range(101)}),
        body(2, more=b"\0\0", id=7),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_a_body_that_is_no_request_is_refused(message):
    with pytest.raises(DataError):
        read_request(*message)


def test_a_byte_that_is_no_bool_and_numbers_that_json_has_not_are_refused():
    with pytest.raises(DataError, match="no BOOL"):
        read_request(*body(2, more=b"\0\2")).inputs["x0"].read()
    with pytest.raises(DataError, match="Ask for it as binary"):
        write_response({"y": np.array([np.inf])}, model="m", version="1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "y"]) | JSON, "datatype": st.sampled_from(list(DATATYPES.values())) | JSON},
    optional={
        "shape": st.lists(st.integers(0, 3), max_size=3) | JSON,
        "data": st.lists(st.integers(0, 1), max_size=4) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 9)}) | JSON,
    },
)


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(
    st.fixed_dictionaries({"inputs": st.lists(TENSOR, max_size=3) | JSON}, optional={"parameters": JSON, "id": JSON}),
    st.binary(max_size=9),
    st.integers(-3, 3),
)
def test_whatever_comes_is_read_or_refused(head, more, off):
    text = json.dumps(head).encode()
    sent = SimpleNamespace(body=text + more, json_bytes=len(text) + off if more or off else None)
    try:
        for tensor in read_request(sent.body, sent.json_bytes).inputs.values():
            array = tensor.read()
            assert array.shape == tensor.shape and DATATYPES[array.dtype.name] == tensor.datatype
    except DataError as error:
        assert len(str(error)) < 600
