"""Scores and labels made beside an engine are those of the graph, for every rule."""

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from offramp.export.cut.answer_rules import ANSWER_RULES
from offramp.export.cut.fitted_rule import ExitWeights, add_fitted_scores
from offramp.export.cut.rules import RULES, Scoring, add_decisions
from offramp.runtime.engines._decisions import Decisions, split_decisions
from offramp.runtime.graph_values import read_model

EXITS = 3
OPSETS = {17: 8, 18: 9}
"""Axes of reductions are attributes in the first, and inputs in the second; the versions of their files."""


def write_graph(shape, opset, gates=False):
    """Return a graph whose exits hand through what comes in, (batch, *shape), and its values by name."""
    sides = ",".join(map(str, ("batch", *shape)))
    inputs = ", ".join(f"float[{sides}] r{k}, float[batch,1] f{k}" for k in range(EXITS))
    nodes = "\n".join(f"z{k} = Neg(r{k})\n g{k} = HardSigmoid(f{k})" for k in range(EXITS))
    outputs = ", ".join(f"float[{sides}] z{k}, float[batch,1] g{k}" for k in range(EXITS))
    text = f'<ir_version: {OPSETS[opset]}, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {{ {nodes} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    return model, {value.name: value for value in model.graph.outputs}


def make_beside(decisions, heads, right, sample):
    """Return what is made beside an engine that gives only the rest."""
    constants = {name: constant.array for name, constant in decisions.constants.items()}
    made = constants | sample | {name: right[name] for name in decisions.engine}
    for name in heads:  # exit by exit, as they are needed
        for making in decisions.needed_for([name])[1]:
            made[making.makes] = making.compiled(constants)(*[made[read] for read in making.reads])
    return made


def compare(model, shape, *, engine_scores=()):
    """See that what is made beside is what the graph makes, and that an engine is asked for nothing more than it must give."""
    content = ir.to_proto(model).SerializeToString()
    heads, inputs = [value.name for value in model.graph.outputs], [value.name for value in model.graph.inputs]
    answers = [name for name in heads if not name.endswith((".score", ".label"))]
    decisions = split_decisions(read_model(content), answers, inputs, heads)
    decisions = msgspec.msgpack.decode(msgspec.msgpack.encode(decisions), type=Decisions)  # as a build keeps it
    session = onnxruntime.InferenceSession(content)
    rng = np.random.default_rng(0)
    for k in range(12):
        sample = {f"r{i}": (rng.standard_normal((1, *shape)) * 3).astype(np.float32) for i in range(EXITS)}
        if k == 0 and len(shape) == 1:
            sample["r1"] = sample["r0"]
            sample["r2"][0, -1] = np.inf  # a class that is masked
        sample |= {f"f{i}": rng.standard_normal((1, 1)).astype(np.float32) for i in range(EXITS)}
        right = dict(zip(heads, session.run(heads, sample), strict=True))
        made = make_beside(decisions, heads, right, sample)
        for name, value in right.items():
            assert made[name].dtype == value.dtype and made[name].shape == value.shape
            np.testing.assert_allclose(made[name], value, atol=1e-6)
    asked = {name for name in decisions.engine if name.endswith((".score", ".label"))}
    assert asked == set(engine_scores)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_of_logits(rule, opset):
    for probabilities, temperatures in (
        ((False,) * EXITS, None),
        ((True,) * EXITS, None),
        ((False,) * EXITS, (2.0, 0.5, 3.0)),
    ):
        model, values = write_graph((5,), opset)
        exits = {f"exit{k}": {"logits": values[f"z{k}"]} for k in range(EXITS)}
        gates = (values["g0"], values["g1"], None) if rule.startswith("gate") else ()
        if probabilities[0]:
            tape = ir.tape.Tape(model.graph)
            for parts in exits.values():
                parts["logits"] = tape.op("Softmax", [parts["logits"]], {"axis": -1})
                parts["logits"].shape, parts["logits"].dtype = values["z0"].shape, values["z0"].dtype
        if gates and (temperatures or probabilities[0]):
            continue
        add_decisions(
            model, exits, Scoring(rule=rule, probabilities=probabilities, temperatures=temperatures, gates=gates)
        )
        compare(model, (5,), engine_scores=["exit0.score", "exit1.score"] if gates else [])


@pytest.mark.parametrize("is_probability", [False, True])
def test_fitted_scores(is_probability):
    model, values = write_graph((5,), 18)
    exits = {f"exit{k}": {"logits": values[f"z{k}"]} for k in range(EXITS)}
    heads = add_decisions(model, exits, Scoring(rule="max_softmax", probabilities=(False,) * EXITS))
    weights = [ExitWeights(0.1, (1.0, 0.2, -0.5), 4.0, is_probability), ExitWeights(-1.0, (1.0, 0.2, 0.5, 2.0), 4.0)]
    add_fitted_scores(model.graph, heads, weights)
    compare(model, (5,))


@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 4)])
@pytest.mark.parametrize("rule", ANSWER_RULES)
def test_each_rule_of_other_answers(rule, shape):
    model, values = write_graph(shape, 18)
    exits = {f"exit{k}": {"map": values[f"z{k}"]} for k in range(EXITS)}
    add_decisions(model, exits, Scoring(rule=f"{rule}:map=0.4" if rule != "mean_softmax" else f"{rule}:map"))
    compare(model, shape)


def test_what_features_make_too_stays_in_the_engine():
    text = """<ir_version: 9, opset_import: ["" : 18]> net (float[batch,5] x) => (float[batch,5] z, float[batch] score) {
        z = Neg(x)
        h = Tanh(x)
        p = Mul(z, h)
        axes = Constant<value = int64[1] {-1}>()
        score = ReduceMax<keepdims = 0>(p, axes)
    }"""
    graph = read_model(onnx.parser.parse_model(text).SerializeToString())
    decisions = split_decisions(graph, ["z"], ["x"], ["z", "score"])
    assert decisions.engine == ("z", "score") and not decisions.makings


def test_a_score_filled_for_each_sample_of_the_input_is_made_beside():
    text = """<ir_version: 9, opset_import: ["" : 18]> net (float[batch,5] x) => (float[batch,5] z, float[batch] score) {
        z = Neg(x)
        n = Shape<start = 0, end = 1>(x)
        one = Constant<value = int64[1] {1}>()
        sizes = Concat<axis = 0>(n, one)
        first = Constant<value = int64[1] {0}>()
        batch = Gather<axis = 0>(sizes, first)
        score = ConstantOfShape<value = float[1] {0.5}>(batch)
    }"""
    graph = read_model(onnx.parser.parse_model(text).SerializeToString())
    decisions = split_decisions(graph, ["z"], ["x"], ["z", "score"])
    made = make_beside(decisions, ["score"], {"z": None}, {"x": np.zeros((1, 5), np.float32)})
    assert decisions.engine == ("z",) and made["score"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("node", "is_beside"),
    [
        ("v, i = TopK(z, two)", True),
        ("v, i = TopK<largest = 0>(z, two)", False),
        ("v = ArgMax<axis = 1>(z)", True),
        ("v = ArgMax<axis = 1, select_last_index = 1>(z)", False),
        ("v = ReduceMax<noop_with_empty_axes = 1>(z)", False),
        ("s = Shape(z)\n v = Div(s, two)", True),
        ("v = Clip(z, half)", True),
        ("v = Clip(z, , half)", False),
    ],
)
def test_settings_that_are_not_made_beside_stay_in_the_engine(node, is_beside):
    text = f"""<ir_version: 9, opset_import: ["" : 18]> net (float[1,5] x) => (float[1,5] z, float[n,m] v) {{
        z = Round(x)
        two = Constant<value = int64[1] {{2}}>()
        half = Constant<value = float {{0.5}}>()
        {node}
    }}"""
    model = onnx.parser.parse_model(text)
    decisions = split_decisions(read_model(model.SerializeToString()), ["z"], ["x"], ["v"])
    assert ("v" not in decisions.engine) is is_beside
    model.graph.output[1].ClearField("type")
    x = np.array([[1, 3, 3, 1, 2]], np.float32)
    right = onnxruntime.InferenceSession(onnx.shape_inference.infer_shapes(model).SerializeToString()).run(
        ["z", "v"], {"x": x}
    )
    made = make_beside(decisions, ["v"], {"z": right[0], "v": right[1]}, {"x": x})["v"]
    assert made.dtype == right[1].dtype and (made == right[1]).all()
