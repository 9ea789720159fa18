"""Files of each kind, which hypothesis changes in their structure: a field removed, moved, repeated, or of a strange value."""

import io
import json
import re

import numpy as np
from hypothesis import strategies as st

from offramp.calibrate.target_file import KEYS, OTHER_KEYS
from offramp.tests.bundle.fuzz import walk
from offramp.tests.fuzzing.readers import READERS

NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, -1, 2**31, 2**63, 1e308, 5e-324])
LEAVES = (
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.sampled_from(["../x", "cpu", "a\0b", "\x1b[2J"])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=9)


@st.composite
def changed_documents(draw, kind):
    """Draw a JSON file: the example with one to three changes."""
    document = json.loads(READERS[kind].example)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(walk(document))
        if not spots:
            break
        holder, key = draw(st.sampled_from(spots))
        match draw(st.sampled_from(["remove", "strange", "nudge", "move", "repeat", "add"])):
            case "remove":
                del holder[key]
            case "nudge" if isinstance(holder[key], (int, float)):
                holder[key] += draw(st.sampled_from([-1, 1, 1000, -1e-6]))
            case "move":
                other, other_key = draw(st.sampled_from(spots))
                if other_key in other if isinstance(other, dict) else other_key < len(other):
                    holder[key] = json.loads(json.dumps(other[other_key]))
            case "repeat" if isinstance(holder[key], list):
                holder[key] = holder[key] * draw(st.sampled_from([2, 50]))
            case "add" if isinstance(holder[key], dict):
                holder[key][draw(st.text(max_size=9))] = draw(VALUES)
            case _:
                holder[key] = draw(VALUES)
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def targets(draw):
    """Draw a file of targets, or a text that looks like YAML."""
    if draw(st.booleans()):
        return draw(st.text("{}[]:,-&*!|>'\"%#? \n\tab01.", max_size=60)).encode()
    keys = st.sampled_from([*KEYS, *OTHER_KEYS]) | st.text(max_size=5)
    limits = NUMBERS | st.sampled_from(["2 %", "800 us", "5ms", "3 mJ", "latency", "class", ".nan", "1e-9"]) | VALUES
    fields = st.dictionaries(keys, limits, max_size=3)
    return json.dumps(draw(fields | st.dictionaries(st.text(max_size=9), fields, max_size=3))).encode()


@st.composite
def golden_samples(draw):
    """Draw golden samples, of which an array has another shape, dtype or value, is missing, or is packed."""
    arrays = dict(np.load(io.BytesIO(READERS["golden"].example)))
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=3, unique=True)):
        shape = draw(
            st.sampled_from([arrays[name].shape, (0,), (), (3, 0, 2**40)]) | st.lists(st.integers(0, 4)).map(tuple)
        )
        dtype = draw(
            st.sampled_from(["f2", "f4", ">f4", "f8", "i1", "i8", "u8", "?", "c8", "U3", "S0", "V0", "M8[s]", "g"])
        )
        value = draw(st.sampled_from([0, 1, -1, 10**6, float("nan"), float("inf")]))
        with np.errstate(all="ignore"):
            small = np.array(value if np.isfinite(value) else 0).astype(dtype)
        arrays[name] = np.zeros(shape, dtype) if draw(st.booleans()) else np.broadcast_to(small, shape)
        if draw(st.integers(0, 9)) == 0:
            del arrays[name]
    file = io.BytesIO()
    (np.savez_compressed if draw(st.integers(0, 9)) == 0 else np.savez)(file, **arrays)
    return file.getvalue()


@st.composite
def packed_files(draw):
    """Draw a packed bundle of which a number in a header or the directory is another, or that is cut or joined."""
    content = bytearray(READERS["packed"].example)
    heads = [match.start() for match in re.finditer(rb"PK[\1-\7][\2-\10]", content)]
    at = draw(st.sampled_from(heads)) + draw(st.integers(4, 45))
    size = draw(st.sampled_from([1, 2, 4]))
    content[at : at + size] = draw(st.binary(min_size=size, max_size=size) | st.just(b"\xff" * size))
    end = draw(st.none() | st.integers(0, len(content)))
    return bytes(content[:end]) + draw(st.sampled_from([b"", b"\0", bytes(content[-60:])]))


STRUCTURES = {
    "manifest": changed_documents("manifest"),
    "calibration": changed_documents("calibration"),
    "target": targets(),
    "golden": golden_samples(),
    "state": changed_documents("state"),
    "request": changed_documents("request"),
    "packed": packed_files(),
}
