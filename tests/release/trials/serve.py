"""A server asked for one answer: needs no client but Python's own."""

import json
import threading
from urllib.request import Request, urlopen

import numpy as np

from offramp.serve import make_app, open_model, open_socket, serve

app = make_app(open_model("calibrated.offramp", name="dense"))
listening = open_socket("127.0.0.1", 0)
threading.Thread(target=serve, args=(app, listening), daemon=True).start()
address = f"http://127.0.0.1:{listening.getsockname()[1]}/v2/models/dense"
tensor = json.load(urlopen(address, timeout=60))["inputs"][0]["name"]
sample = np.load("samples.npz")["x"][:1]
asked = {"inputs": [{"name": tensor, "shape": list(sample.shape), "datatype": "FP32", "data": sample.ravel().tolist()}]}
answer = json.load(urlopen(Request(f"{address}/infer", json.dumps(asked).encode()), timeout=60))
assert {output["name"] for output in answer["outputs"]} == {"label", "score", "exit"}, answer
