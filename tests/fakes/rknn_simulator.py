"""Runs in the environment of rknn-toolkit2: builds stages and simulates them, since only the process that built one can.

Takes pickled requests on stdin and answers each on stdout: ("build", job) -> ("built", reply, the .rknn file) or ("refused",
words); ("run", sha256 of the file, arrays) -> arrays. Arrays go as (dtype, shape, bytes): the two sides have different versions
of numpy.
"""

import hashlib
import importlib.util
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

spec = importlib.util.spec_from_file_location("rknn_converter", sys.argv[1])
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)
answers = os.fdopen(os.dup(1), "wb")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # rknn-toolkit2 prints, from C too
os.dup2(1, 2)
stages: dict[str, Any] = {}


def build(job):
    from rknn.api import RKNN

    rknn = RKNN(verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            reply = converter.convert(job, rknn)
        except converter.UnsupportedStage as error:
            os.chdir("/")
            return "refused", str(error)
        built = Path("stage.rknn").read_bytes()
        assert rknn.init_runtime() == 0
        os.chdir("/")
    stages[hashlib.sha256(built).hexdigest()] = rknn
    return "built", reply, built


def run(key, arrays):
    inputs = [np.frombuffer(content, dtype).reshape(shape) for dtype, shape, content in arrays]
    given = stages[key].inference(inputs=inputs)
    return [(array.dtype.str, array.shape, array.tobytes()) for array in given]


while True:
    try:
        what, *arguments = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump({"build": build, "run": run}[what](*arguments), answers)
    answers.flush()
