"""What is refused before members are joined: too few, one twice, rules and inputs that do not go together."""

import filecmp
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from ...bundle import Bundle, open_bundle
from ...errors import UsageError
from .member import OWN_RULES, Member, MemberGraph, find_bundle

__all__ = ["check_copies", "check_members", "check_rules", "check_votes", "drops_labels"]


def check_members(groups: Sequence[Sequence[Member]], base: Bundle | None) -> None:
    """See that there are several, and none twice, and that all take what the bundle takes.

    Raises:
        UsageError: that is not so.
    """
    if len(groups) < 2:
        raise UsageError(f"A cascade has at least two members, not {len(groups)}; those that vote count as one.")
    members = [member for voters in groups for member in voters]
    for k, member in enumerate(members):
        twin = next((other for other in members[:k] if _is_same(member, other)), None)
        if twin is not None:
            what = (
                "a member twice" if str(twin.model) == str(member.model) else f"the same network as {twin.model!s:.300}"
            )
            raise UsageError(f"{member.model!s:.300} is {what}: give every network once.")
    has_images = [member.preprocess is not None for member in members]
    if base is None and len({*has_images}) > 1:
        raise UsageError(
            "Some members have a preprocess and some have not, such as bundles that take images: give it (--mean, --std) for "
            "all, or for none."
        )
    if base is not None and base.manifest.preprocess is None and any(has_images):
        raise UsageError(
            "Members have a preprocess, but the bundle's variants take floats, whose pixels may be scaled in any way: take "
            "members without, or export the bundle's networks with a preprocess."
        )


def check_votes(groups: Sequence[Sequence[Member]], answer: Sequence[str]) -> None:
    """See that the members of a vote can vote.

    Raises:
        UsageError: they do not classify, or have a rule each.
    """
    voting = [member for voters in groups if len(voters) > 1 for member in voters]
    if voting and answer:
        raise UsageError("Networks vote on labels, and these do not classify: give each as a member of its own.")
    if any(member.rule is not None for member in voting):
        raise UsageError("Networks that vote have one score together, by the cascade's rule: leave out their rule.")


def _is_same(member: Member, other: Member) -> bool:
    """Tell whether two members are the same network or path, and take and give the same."""
    if not _takes_alike(member, other):
        return False
    paths = [path for path in (member.model, other.model) if isinstance(path, (str, os.PathLike))]
    return member.model is other.model or (len(paths) == 2 and _identify(paths[0]) == _identify(paths[1]))


def _takes_alike(member: Member, other: Member) -> bool:
    """Tell whether two members, if they were one network, would give the same answers."""
    return (member.exits, member.size, member.bgr, member.preprocess) == (
        other.exits,
        other.size,
        other.bgr,
        other.preprocess,
    )


def _identify(path: "str | os.PathLike[str]") -> str:
    """Return a file's path without links, or what a bundle's variant computes."""
    found = find_bundle(path)
    return os.path.realpath(path) if found is None else open_bundle(found[0]).variant(found[1]).digest


def check_copies(members: Sequence[Member], graphs: Sequence[MemberGraph]) -> None:
    """See that no ONNX file is a copy of another.

    Raises:
        UsageError: two hold the same bytes, and so do the files of their weights.
    """
    files = [
        (member, [Path(member.model), *_weight_files(graph)])
        for member, graph in zip(members, graphs, strict=True)
        if isinstance(member.model, (str, os.PathLike)) and find_bundle(member.model) is None
    ]
    for k, (member, own) in enumerate(files):
        for other, theirs in files[:k]:
            pairs = list(zip(own, theirs, strict=False))
            has_equal = len(own) == len(theirs) and all(filecmp.cmp(a, b, shallow=False) for a, b in pairs)
            if has_equal and _takes_alike(member, other):
                raise UsageError(
                    f"{member.model!s:.300} is the same network as {other.model!s:.300}: give every network once."
                )


def _weight_files(graph: MemberGraph) -> list[Path]:
    tensors = [value.const_value for value in graph.model.graph.initializers.values()]
    return sorted({Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)})


def check_rules(members: Sequence[Member], rule: str, answer: Sequence[str]) -> None:
    """See that the rule goes with the members.

    Raises:
        UsageError: it needs gates, or members have rules or labels of their own that do not go with it.
    """
    if rule.startswith("gate"):
        raise UsageError(f"A cascade has no gates of its own: take another rule than {rule}, such as {OWN_RULES[0]}.")
    if answer and any(member.classes is not None or member.rule is not None for member in members):
        raise UsageError("Members that do not classify have no classes and no rule of their own: leave them out.")
    has_own = any(drops_labels(member) or member.rule is not None for member in members)
    if has_own and rule not in OWN_RULES:
        raise UsageError(
            "Members that have a rule of their own, or labels that are no classes of the bundle, do not go with the rule "
            f"{rule}: take one of {', '.join(OWN_RULES)}."
        )


def drops_labels(member: Member) -> bool:
    """Tell whether a member has labels that the bundle has not; of a mapping that is not known before its graph is read."""
    classes = member.classes
    return classes is not None and (isinstance(classes, Mapping) or None in classes)
