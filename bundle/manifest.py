"""The manifest of a bundle: its parts as types, which are validated while they are decoded."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..files import sha256
from .preprocess import Preprocess
from .record import MOST_NAMED, Count, Positive, Record, Text
from .tensor import MOST_VALUES, Tensor

__all__ = [
    "NEVER",
    "NO_LABEL",
    "OLDEST_SCHEMA",
    "PLAIN_NAME",
    "SCHEMA",
    "Exit",
    "File",
    "Manifest",
    "Origin",
    "Precision",
    "Stage",
    "Variant",
    "can_drop_exits",
    "reads_earlier_exits",
]

SCHEMA, OLDEST_SCHEMA = 3, 2
"""The version of manifests that this offramp writes, and the oldest that it reads."""

PLAIN_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of names that are safe in a path: `fp32`, `stage0.onnx`."""

NEVER = 2.0
"""The threshold that no score reaches: the exit is never taken."""

NO_LABEL = -1
"""The label in results of a network that does not classify."""

MOST_CLASSES = 2**24
"""No network has more classes."""

MOST_VARIANTS, MOST_EXITS, MOST_FILES, MOST_IN_NAME = 500, 1000, 10_000, 255
"""A bundle has no more variants, a variant no more exits and files, a stage no more tensors, a file's name no more characters."""

DIGESTED_OF_VARIANT = ("name", "precision", "rule", "weights", "whole", "golden")
DIGESTED_OF_STAGE = ("file", "inputs", "outputs", "macs")
DIGESTED_OF_EXIT = ("name", "logits", "score", "label", "static", "macs", "temperature")
"""The fields of which `Variant.digest` is made, beside the files.

Calibrations hold digests, so the fields here cannot change. Another field that decides what a variant computes may be digested
only where it differs from its default, or no calibration of an older bundle would fit.
"""

CHAINED_RULES = ("agreement", "fitted", "patience")
"""The rules whose scores compare an exit with earlier ones. A static network has no earlier exits, and its score is 1."""

TAKEN_NAMES = ("exit", "label", "logits", "score", "thresholds")
"""What a part of an answer cannot be called, since other tensors are."""


Precision = Literal["fp16", "fp32", "fp64", "int8"]
FileName = Annotated[str, Meta(max_length=MOST_IN_NAME)]
SampleHash = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


def reads_earlier_exits(rule: str) -> bool:
    """Tell whether a rule makes an exit's score of earlier exits too, as `agreement`, `fitted` and `patience` do."""
    return rule.partition(":")[0] in CHAINED_RULES


def can_drop_exits(rule: str) -> bool:
    """Tell whether exits can be dropped afterwards: not where a score is made of several heads."""
    return rule != "ensemble" and not reads_earlier_exits(rule)


class Stage(Record, frozen=True):
    """The part of the network that runs between two exits: one graph.

    Passes of a loop share one file. Names in that file are those of the first stage that uses it; the names of the other stages
    correspond in order, and the last pass may make fewer outputs.

    Attributes:
        file: the graph.
        inputs: the network's inputs and the boundary tensors that the stage reads.
        outputs: the boundary tensors that the stage makes for later stages. The outputs of its head are named by its exit.
        macs: multiply-accumulates for one sample, head included.
        guarded: the same graph with guards on its inputs; None if ONNX Runtime was not measured to run that faster (see
            `export/cut/guards.py`).

    Example:
        >>> from offramp.bundle import open_bundle
        >>> [stage.file for stage in open_bundle("digits.offramp").variant("fp32").stages]
        ['stage0.onnx', 'stage1.onnx', 'stage2.onnx']
    """

    file: Text
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=MOST_EXITS)]
    outputs: Annotated[tuple[Tensor, ...], Meta(max_length=MOST_EXITS)]
    macs: Count
    guarded: Text | None = None

    def serves(self, other: "Stage") -> bool:
        """Return True if this stage's file can run as another stage: numbers, dtypes and shapes of their tensors agree."""
        pairs = [*zip(self.inputs, other.inputs, strict=False), *zip(self.outputs, other.outputs, strict=False)]
        fits = len(self.inputs) == len(other.inputs) and len(self.outputs) >= len(other.outputs)
        return fits and all((a.dtype, a.shape) == (b.dtype, b.shape) for a, b in pairs)


class Exit(Record, frozen=True):
    """One exit of a variant, with the names of its outputs.

    Attributes:
        name: what people call it.
        logits: the output with its logits, (batch, classes); empty if the network does not classify.
        score: the output that says how sure it is, float32 (batch,), 0 to 1.
        label: the output with the likeliest class, int64 (batch,); empty if the network does not classify.
        static: the graph of the static network that ends at it, without the earlier heads.
        macs: all multiply-accumulates of that static network for one sample.
        temperature: the logits are divided by this before the score is made of them.
        place: the module of the original network that `attach` put the exit on, such as `encoder.layer.3`; None otherwise.
        answer: what the exit of a network that does not classify gives: outputs by the names that the network has for them, such
            as {"boxes": ..., "classes": ...}. The batch is their first axis. Empty if the network classifies.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> exits = open_bundle("digits.offramp").variant().exits
        >>> exits[0].macs < exits[2].macs
        True
    """

    name: Text
    logits: Text
    score: Text
    label: Text
    static: Text
    macs: Count
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    place: Text | None = None
    answer: Annotated[dict[str, Tensor], Meta(max_length=MOST_EXITS)] = msgspec.field(default_factory=dict)

    def parts(self, classes: int) -> dict[str, Tensor]:
        """Return the outputs that make up its answer, by name: `answer`, or its logits of so many classes as {"logits": ...}."""
        return self.answer or {"logits": Tensor(name=self.logits, dtype="float32", shape=(None, classes))}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs: score, then label, then those of its answer."""
        answer = [tensor.name for tensor in self.answer.values()] or [self.label, self.logits]
        return (self.score, *answer)


class File(Record, frozen=True):
    """A file of a variant.

    Attributes:
        bytes: its size.
        sha256: of its content, in hexadecimal.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> len(open_bundle("digits.offramp").variant().files["weights.bin"].sha256)
        64
    """

    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Origin(Record, frozen=True, omit_defaults=True):
    """How a variant was made from another one.

    Attributes:
        parent: the variant it was made from, which stands before it.
        how: the function of `export/` that made it.
        settings: the arguments of that function, by name.
        fitted_on: hashes of some of the samples that its scores were fitted to; promises need other samples.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> origin = open_bundle("digits.offramp").variant("int8").origin
        >>> origin.how, origin.parent
        ('quantize', 'fp32')
    """

    parent: Text
    how: Literal["gate", "keep", "prune", "quantize"]
    settings: Annotated[dict[Text, Text | int | float | None], Meta(max_length=MOST_NAMED)]
    fitted_on: Annotated[tuple[SampleHash, ...], Meta(max_length=MOST_EXITS)] = ()


class Variant(Record, frozen=True, dict=True):
    """One form of the network. File names are relative to its folder, which variants with the same weights share.

    Attributes:
        name: unique in the bundle.
        folder: the folder of its files, `variants/<folder>`.
        precision: the number format of its arithmetic: `fp16`, `fp32`, `fp64`, or `int8` if it is quantised.
        rule: how its scores are made.
        weights: the external data of every graph beside it; an empty file if all weights lie in the graphs.
        whole: the graph of the whole network, whose outputs include those of every exit.
        golden: the golden samples.
        stages: first to last, one per exit.
        exits: first to last.
        files: every file named here, by its name.
        origin: how it was made from another variant; None for an exported one.
        error: the largest difference between its answers and the original's, relative to the largest logit, or to the largest
            value of that part of the answer; None if an older offramp exported it.
        own_error: how far rounding takes the original's own answers, in the same measure: a torch network's from the same in
            float64, a graph's from the same without its engine's optimisations. None if it was not measured, as where `error`
            is within what the precision allows.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> variant = open_bundle("digits.offramp").variant("int8")
        >>> variant.precision, len(variant.stages), len(variant.exits)
        ('int8', 3, 3)
    """

    name: Annotated[str, Meta(pattern=f"^{PLAIN_NAME}$", max_length=MOST_IN_NAME)]
    folder: Text
    precision: Precision
    rule: Text
    weights: Text
    whole: Text
    golden: Text
    stages: Annotated[tuple[Stage, ...], Meta(min_length=2, max_length=MOST_EXITS)]
    exits: Annotated[tuple[Exit, ...], Meta(min_length=2, max_length=MOST_EXITS)]
    files: Annotated[dict[FileName, File], Meta(max_length=MOST_FILES)]
    origin: Origin | None = None
    error: Annotated[float, Meta(ge=0)] | None = None
    own_error: Annotated[float, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(PLAIN_NAME, self.name):  # a pattern that ends with $ allows a line end behind it
            raise ValueError(f"{self.name!r} is no name of a variant")
        if len(self.stages) != len(self.exits):
            raise ValueError(f"variant {self.name} has {len(self.stages)} stages for {len(self.exits)} exits")
        first: dict[str, Stage] = {}
        for stage in self.stages:
            if not first.setdefault(stage.file, stage).serves(stage):
                raise ValueError(f"two stages of variant {self.name} share {stage.file}, which fits one of them only")
        named = [self.weights, self.whole, self.golden]
        named += [stage.file for stage in self.stages] + [point.static for point in self.exits]
        guarded = {stage.guarded for stage in self.stages if stage.guarded is not None}
        if strange := guarded & set(named):
            raise ValueError(f"variant {self.name} names {', '.join(strange)} as a guarded stage and as something else")
        named += guarded
        if lacking := [name for name in named if name not in self.files]:
            raise ValueError(f"variant {self.name} names {lacking[0]}, which its list of files lacks")
        for name in self.files:
            if not re.fullmatch(f"variants/{PLAIN_NAME}/{PLAIN_NAME}", f"{self.folder}/{name}"):
                raise ValueError(f"the path {self.folder}/{name} leads outside the bundle's variants")

    @cached_property
    def digest(self) -> str:
        """The sha256 of everything that decides what this variant computes; calibrations name variants by it.

        Golden samples, guarded graphs, the folder's name, the origin, the errors and the places of exits are left out.
        """
        record = _take_fields(self, DIGESTED_OF_VARIANT)
        record["stages"] = [_take_fields(stage, DIGESTED_OF_STAGE) for stage in self.stages]
        record["exits"] = [_digest_exit(exit_) for exit_ in self.exits]
        left_out = {self.golden, *(stage.guarded for stage in self.stages)}
        record["files"] = {name: file for name, file in self.files.items() if name not in left_out}
        return sha256(msgspec.json.encode(record, order="sorted"))


def _digest_exit(exit_: Exit) -> dict[str, Any]:
    return _take_fields(exit_, DIGESTED_OF_EXIT) | ({"answer": exit_.answer} if exit_.answer else {})


def _take_fields(record: Record, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


class Manifest(Record, frozen=True):
    """The contents of a bundle.

    Attributes:
        schema: the version of this form.
        offramp: the version of offramp that wrote it.
        network: the name of the class or file that was exported.
        captured: the source of the graph: torch's `dynamo` exporter, its older `torchscript` exporter, which records one run, or
            an `onnx` file.
        classes: the number of classes; 0 for a network whose exits give other answers than logits (see `Exit.answer`).
        class_names: one per class; None if they have none.
        preprocess: how images are prepared, for a network that takes uint8 images (batch, height, width, channel); else None.
        inputs: the network's inputs, the same for every variant.
        variants: the whole network of the first one is the reference that drops are counted against. A variant stands after its
            parent.
        table_rows: by input, the rows of the table into which all its values are indices, as tokens are into an embedding. Not
            every engine refuses an index beyond it.

    Example:
        >>> from offramp.bundle import open_bundle
        >>> manifest = open_bundle("digits.offramp").manifest
        >>> manifest.schema, manifest.classes, manifest.inputs[0].shape
        (3, 10, (None, 1, 8, 8))
    """

    schema: int
    offramp: Text
    network: Text
    captured: Literal["dynamo", "torchscript", "onnx"]
    classes: Annotated[int, Meta(ge=0, le=MOST_CLASSES)]
    class_names: tuple[Text, ...] | None
    preprocess: Preprocess | None
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1, max_length=MOST_EXITS)]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=MOST_VARIANTS)]
    table_rows: Annotated[dict[Text, Positive], Meta(max_length=MOST_EXITS)] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise ValueError(f"two variants have the same name: {', '.join(variant.name for variant in self.variants)}")
        for i, variant in enumerate(self.variants):
            if variant.origin and variant.origin.parent not in [before.name for before in self.variants[:i]]:
                raise ValueError(f"variant {variant.name} is made from {variant.origin.parent}, which is not before it")
        if self.classes == 1:
            raise ValueError("one class alone is no classification")
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"there are {len(self.class_names)} class names for {self.classes} classes")
        whole_numbers = {tensor.name for tensor in self.inputs if "int" in tensor.dtype}
        if strange := self.table_rows.keys() - whole_numbers:
            raise ValueError(f"table_rows names {', '.join(sorted(strange))}, which is no input of whole numbers")
        if any(None not in tensor.shape for tensor in self.inputs):
            raise ValueError("an input has no batch axis")
        for variant in self.variants:
            self._check_tensors(variant)
            self._check_answers(variant)

    @property
    def answer(self) -> tuple[str, ...]:
        """The names of the parts of an answer: `logits` alone if the network classifies.

        Example:
            >>> from offramp.bundle import open_bundle
            >>> open_bundle("digits.offramp").manifest.answer
            ('logits',)
        """
        return tuple(self.variants[0].exits[0].answer) or ("logits",)

    def _check_tensors(self, variant: Variant) -> None:
        """See that each stage of a variant reads what is there before it, and that nothing is too large.

        Raises:
            ValueError: it does not.
        """
        tensors = [tensor for stage in variant.stages for tensor in stage.outputs]
        answers = [tensor for exit_ in variant.exits for tensor in exit_.answer.values()]
        has_named_axes = not all(tensor.is_sized for tensor in self.inputs)
        if not has_named_axes and not all(tensor.is_sized for tensor in (*tensors, *answers)):
            raise ValueError(f"a tensor of variant {variant.name} has a named axis, but no input has one")
        if sum(tensor.least_values for tensor in (*self.inputs, *tensors, *answers)) > 4 * MOST_VALUES:
            raise ValueError(f"the tensors of variant {variant.name} have more than {4 * MOST_VALUES} values")
        available, names = set(self.inputs), {tensor.name for tensor in self.inputs}
        for stage in variant.stages:
            if again := names & {tensor.name for tensor in stage.outputs}:
                raise ValueError(f"{variant.name}/{stage.file} makes {', '.join(again)}, which is there already")
            names.update(tensor.name for tensor in stage.outputs)
            for tensor in stage.inputs:
                if tensor not in available:
                    raise ValueError(f"{variant.name}/{stage.file} reads {tensor.name}, which nothing before makes")
            available.update(stage.outputs)

    def _check_answers(self, variant: Variant) -> None:
        """See that what the exits of a variant give has names of its own, or is a boundary tensor of the same form.

        Raises:
            ValueError: it has not.
        """
        inputs = {tensor.name for tensor in self.inputs}
        boundaries = {tensor.name: tensor for stage in variant.stages for tensor in stage.outputs}
        given = set()
        for exit_ in variant.exits:
            what = f"exit {exit_.name} of {variant.name}"
            if {bool(exit_.logits), bool(exit_.label), not exit_.answer} != {bool(self.classes)}:
                raise ValueError(
                    f"{what} has the answer of another task than the network, which has {self.classes} classes"
                )
            if self.classes == 0 and tuple(exit_.answer) != self.answer:
                raise ValueError(f"{what} answers with {', '.join(exit_.answer)}, others with {', '.join(self.answer)}")
            for name, tensor in exit_.answer.items():
                if not re.fullmatch(PLAIN_NAME, name) or name in TAKEN_NAMES or tensor.batch_axis != 0:
                    raise ValueError(
                        f"{what} has an answer {name!r}, which is no name for it, or has no batch as its first axis"
                    )
            forms = {tensor.name: tensor for tensor in exit_.parts(self.classes).values()}
            forms[exit_.score] = Tensor(name=exit_.score, dtype="float32", shape=(None,))
            forms[exit_.label] = Tensor(name=exit_.label, dtype="int64", shape=(None,))
            for name in exit_.outputs:
                if name in inputs or name in given or boundaries.get(name, forms[name]) != forms[name]:
                    raise ValueError(f"{name} is an output of {what}, and something else")
                given.add(name)
