"""Heads for answers that are no logits: maps, grids, numbers, and several of these by name. Needs torch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from .answers import ALONE, Answer
from .heads import default_head
from .places import SPACE

__all__ = ["HEAD_KINDS", "ToGrid", "ToMap", "can_answer", "make_answer_head"]

KERNEL = 5
"""Along each axis, how many cells the first convolution of a head reads. It reads each channel alone: many cells cost little."""

MOST_SKEWED = 1.2
"""A map has the proportions of the features if one axis is stretched at most this many times as much as another: networks round
sizes."""


COARSER = 4
"""A map is made with this many times fewer cells along each axis than it has, where the features have more than that."""


class ToMap(nn.Module):
    """A head that gives a map: features averaged to a quarter of its size, two convolutions to its channels, then resized.

    Args:
        features: example features (batch, channels, *space) with one to three axes of space.
        output: an example of the answer, (batch, ..., *space); the axes in front of those of space are channels.

    Example:
        >>> import torch
        >>> from offramp.export import ToMap
        >>> head = ToMap(torch.zeros(1, 8, 12, 12), torch.zeros(1, 3, 96, 96))
        >>> tuple(head(torch.zeros(5, 8, 12, 12)).shape)
        (5, 3, 96, 96)
    """

    def __init__(self, features: Tensor, output: Tensor) -> None:
        super().__init__()
        space = features.shape[2:]
        self.shape, self.size = tuple(output.shape[1:]), tuple(output.shape[-len(space) :])
        cells = [-(-size // COARSER) for size in self.size]
        channels = math.prod(self.shape[: -len(space)])
        self.layers = nn.Sequential(
            _pool(space, cells), *_two_convolutions(features.shape[1], channels, list(map(min, space, cells)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, (batch, ..., *space), that features (batch, channels, *space) show."""
        return _resize(self.layers(x), self.size).reshape(-1, *self.shape)

    def extra_repr(self) -> str:
        """Return the shape of the answer, for print()."""
        return f"map {self.shape}"


class ToGrid(nn.Module):
    """A head that gives a grid, as of a detector: features averaged to twice its size, then two convolutions to its cells.

    Args:
        features: example features (batch, channels, *space) with one to three axes of space.
        output: an example of the answer, (batch, ..., *grid). All cells may be in one axis, as in (batch, channels, cells) or
            (batch, cells, channels), if they make a grid of the features' proportions.

    Raises:
        ValueError: they do not.

    Example:
        >>> import torch
        >>> from offramp.export import ToGrid
        >>> head = ToGrid(torch.zeros(1, 8, 24, 24), torch.zeros(1, 5, 36))
        >>> tuple(head(torch.zeros(7, 8, 24, 24)).shape)
        (7, 5, 36)
    """

    def __init__(self, features: Tensor, output: Tensor) -> None:
        super().__init__()
        space = features.shape[2:]
        found = _find_space(space, output.shape) or _find_cells(space, output.shape)
        if found is None:
            raise ValueError(f"features {tuple(features.shape)} make no grid {tuple(output.shape)}")
        self.shape, (self.grid, self.cells_axis) = tuple(output.shape[1:]), found
        step = 2 if all(size >= 2 * cells for size, cells in zip(space, self.grid, strict=True)) else 1
        self.size = tuple(step * cells for cells in self.grid)
        self.pool = _pool(space, self.size)
        channels = math.prod(self.shape) // math.prod(self.grid)
        self.layers = nn.Sequential(*_two_convolutions(features.shape[1], channels, self.grid, step))

    def forward(self, x: Tensor) -> Tensor:
        """Return the grid in the answer's shape that features (batch, channels, *space) show."""
        y: Tensor = self.layers(_resize(self.pool(x), self.size))
        return (y.flatten(2).transpose(1, 2) if self.cells_axis == 1 else y).reshape(-1, *self.shape)

    def extra_repr(self) -> str:
        """Return the shape of the answer, for print()."""
        return f"grid {self.shape}"


HEAD_KINDS: dict[str, type[nn.Module]] = {"map": ToMap, "grid": ToGrid}
"""The heads that can be asked for by name."""


def _pool(space: Sequence[int], cells: Sequence[int]) -> nn.Module:
    """Return a layer that averages equal windows of features, as large as at least so many cells allow."""
    windows = [
        max(k for k in range(1, max(size // least, 1) + 1) if size % k == 0)
        for size, least in zip(space, cells, strict=True)
    ]
    kind: Any = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[len(space) - 1]
    return kind(windows) if max(windows) > 1 else nn.Identity()


def _two_convolutions(inputs: int, outputs: int, space: Sequence[int], step: int = 1) -> list[nn.Module]:
    """Return a convolution that looks around in each channel, and one that mixes them; in between there are `space` cells."""
    kinds: Any = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))
    conv, norm = kinds[len(space) - 1]
    # In training, torch cannot normalise one value per channel, which a batch of one sample has in a single cell.
    between = norm(inputs) if math.prod(space) > 1 else nn.Identity()
    around = conv(inputs, inputs, KERNEL, step, KERNEL // 2, groups=inputs)
    return [around, between, nn.ReLU(), conv(inputs, outputs, 1)]


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return (batch, channels, *space) in another size, interpolated."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode=("linear", "bilinear", "trilinear")[len(size) - 1])


class _Layout(NamedTuple):
    """How a map or grid lies in an answer: its size, and the axis that holds all cells, 0 if each of space has an axis."""

    size: tuple[int, ...]
    cells_axis: int


def _find_space(space: Sequence[int], output: Sequence[int], most_skewed: float = 1.0) -> _Layout | None:
    """Return the size of an answer (batch, ..., *space), if its last axes have the proportions of the features' space.

    Without channels, (batch, *space), no axis may be stretched more than `most_skewed` times as much as another.
    """
    if not space or len(output) <= len(space):
        return None
    size = tuple(output[-len(space) :])
    limit = MOST_SKEWED if len(output) > len(space) + 1 else most_skewed
    return _Layout(size, 0) if 0 not in size and _skew(space, size) <= limit + 1e-9 else None


def _find_cells(space: Sequence[int], output: Sequence[int]) -> _Layout | None:
    """Return the grid whose cells are all in one axis of an answer of three, if they have the features' proportions.

    Where both axes could hold them, it is the one whose grid divides the features, or else the longer one.
    """
    if len(space) != 2 or len(output) != 3:
        return None
    grids = []
    for axis in (2, 1):
        rows = round(math.sqrt(output[axis] * space[0] / space[1]))
        if rows and output[axis] % rows == 0:
            grid = (rows, output[axis] // rows)
            if _skew(space, grid) <= MOST_SKEWED:
                divides = not any(size % cells for size, cells in zip(space, grid, strict=True))
                grids.append((divides, output[axis], _Layout(grid, axis)))
    return max(grids, key=lambda grid: grid[:2])[2] if grids else None


def _skew(space: Sequence[int], size: Sequence[int]) -> float:
    """Return how many times more one axis is stretched than another between two sizes."""
    stretched = [to / of for of, to in zip(space, size, strict=True)]
    return max(stretched) / min(stretched)


def choose_head(kind: type[nn.Module] | None, space: Sequence[int], output: Sequence[int]) -> type[nn.Module] | None:
    """Return which of `ToMap` and `ToGrid` makes an answer of this shape; None if neither does.

    Args:
        kind: the one that is asked for; None for either.
        space: the sizes of the features' axes of space.
        output: the shape of the answer.
    """
    if kind is ToMap:
        return ToMap if _find_space(space, output, MOST_SKEWED) else None
    direct = _find_space(space, output)
    if kind is None and direct and any(to > of for of, to in zip(space, direct.size, strict=True)):
        return ToMap
    return ToGrid if direct or _find_cells(space, output) else None


class _OneNumber(nn.Module):
    """A head that gives one number for each sample, (batch,)."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, *features: Tensor) -> Tensor:
        return cast(Tensor, self.head(*features)[:, 0])


class _Parts(nn.Module):
    """Heads that read the same features, each for a part of the answer."""

    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.names, self.heads = tuple(heads), nn.ModuleList(heads.values())

    def forward(self, *features: Tensor) -> Answer:
        return {name: head(*features) for name, head in zip(self.names, self.heads, strict=True)}


def can_answer(answer: Answer, shape: Sequence[int], layout: Sequence[str], kind: type[nn.Module] | None) -> bool:
    """Tell whether heads of these kinds make all parts of an answer of features with this shape and layout."""
    space = [size for size, axis in zip(shape, layout, strict=True) if axis == SPACE]
    return all((kind is None and x.ndim <= 2) or choose_head(kind, space, x.shape) for x in answer.values())


def make_answer_head(
    answer: Answer, features: Tensor, layout: Sequence[str], kind: type[nn.Module] | None
) -> nn.Module:
    """Make a head that gives an answer as the network's own.

    Args:
        answer: of the network, for any number of samples.
        features: example features in the order of `arrange`.
        layout: the names of their axes in the network.
        kind: `ToMap` or `ToGrid` for all parts; None to choose for each part by its shape.

    Returns:
        A module: features -> a tensor, or a dict of the parts. Numbers (batch,) and (batch, count) are made as logits are.
    """
    space, heads = features.shape[2:] if SPACE in layout else (), {}
    for name, x in answer.items():
        if kind is None and x.ndim <= 2:
            numbers = default_head(features, layout, math.prod(x.shape[1:]))
            heads[name] = numbers if x.ndim == 2 else _OneNumber(numbers)
        else:
            chosen = choose_head(kind, space, x.shape)
            assert chosen is not None  # `can_answer` has said so
            heads[name] = chosen(features, x)
    return heads[ALONE] if ALONE in heads else _Parts(heads)
