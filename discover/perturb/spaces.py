"""Spaces: what N rows of parameters mean, the norms that they are held to, and the changes that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from discover.choices import Kind
from discover.config import SearchConfig
from discover.errors import UsageError
from discover.model.anatomy import Place, Site
from discover.model.change import Change, Perturbations, biases, read_by
from discover.model.loading import LoadedModel
from discover.model.slice import ModelSlice
from discover.perturb.sphere import orthonormalised, random_row, seed_of, unit

LOUD = 0.9
"""Share of the tokens at which a low-rank change of a band writes at most its radius."""
MASSIVE = 10.0
"""Median norms of the residual stream beyond which a token says nothing of how loud an adapter is: in many models what the first
one is given is as much louder (massive activations; Sun et al., 2024), and adapters held there would be silent elsewhere."""
PIECE = 2**22
"""Numbers of one tensor that is held, over many rows, beside what is returned."""


class Space(Protocol):
    """Parameters [N, P] of N perturbations of one kind."""

    @property
    def places(self) -> Sequence[Place]:
        """Where they act, in the model's order."""

    @property
    def lengths(self) -> Sequence[int]:
        """Lengths of the consecutive parts of a row of parameters; each part is held at norm one. They sum to P."""

    @property
    def calibrating(self) -> "Space":
        """The space whose random directions calibrate the radius."""

    def apart(self, directions: Tensor) -> Tensor:
        """Return unit directions [N, P] without what makes one part of a row the copy of another."""

    def perturbations(self, directions: Tensor, radius: float) -> Perturbations:
        """Return what unit directions [N, P] stand for at a radius; gradients flow to them."""

    def sized(self, count: int) -> "Space":
        """Return the space of so many rows."""

    def rows(self, index: slice | Tensor) -> "Space":
        """Return the space of the named rows."""

    def likeness(self, directions: Tensor) -> Tensor:
        """Return [N, N] cosines between what rows stand for; signs that cancel within a row make no difference."""

    def pulled(self, weights: Tensor, directions: Tensor) -> Tensor:
        """Return [N, P]: for row i the mean of all rows under `weights` [N, N], each with its signs turned to those of row i."""


def held(space: Space, parameters: Tensor) -> Tensor:
    """Return parameters [N, P] with every part at norm one, and those parts apart that a row could have twice."""
    return space.apart(torch.cat([unit(part) for part in parameters.split(list(space.lengths), dim=1)], dim=1))


def tangent(space: Space, gradients: Tensor, directions: Tensor) -> Tensor:
    """Return the part of `gradients` [N, P] that leaves the norm of every part of `directions` [N, P] as it is."""
    lengths = list(space.lengths)
    pairs = zip(gradients.split(lengths, dim=1), directions.split(lengths, dim=1), strict=True)
    return torch.cat([gradient - (gradient * along).sum(dim=1, keepdim=True) * along for gradient, along in pairs], dim=1)


def drawn(space: Space, count: int, *names: object) -> Tensor:
    """Return random directions [count, P], uniform in every part; row i depends on `names` and i alone."""
    width = sum(space.lengths)
    found = torch.empty(count, width)
    # Row by row: all of them in float64, and once more part by part, would be many times what is returned.
    for index, row in enumerate(found):
        row.copy_(held(space, random_row(width, *names, index)[None])[0])
    return found


def _pieces(count: int, numbers: int) -> list[slice]:
    """Return consecutive slices of `count` rows, each with few enough of them where one row takes so many `numbers`."""
    size = max(1, PIECE // max(1, numbers))
    return [slice(start, start + size) for start in range(0, count, size)]


@dataclass(frozen=True)
class VectorSpace:
    """One vector, added to what one module puts out, at its norm there."""

    place: Place
    width: int
    """D."""

    @property
    def places(self) -> Sequence[Place]:
        """The one place."""
        return (self.place,)

    @property
    def lengths(self) -> Sequence[int]:
        """One part, of width D."""
        return (self.width,)

    @property
    def calibrating(self) -> "VectorSpace":
        """The space itself."""
        return self

    def apart(self, directions: Tensor) -> Tensor:
        """Return the directions as they are: they have one part."""
        return directions

    def perturbations(self, directions: Tensor, radius: float) -> Perturbations:
        """Return biases: radius times direction."""
        return biases(self.place, radius * directions)

    def sized(self, count: int) -> "VectorSpace":  # noqa: ARG002 - the same for every row.
        """Return the space itself."""
        return self

    def rows(self, index: slice | Tensor) -> "VectorSpace":  # noqa: ARG002 - the same for every row.
        """Return the space itself."""
        return self

    def likeness(self, directions: Tensor) -> Tensor:
        """Return cosines; the opposite of a vector is another vector."""
        return directions @ directions.T

    def pulled(self, weights: Tensor, directions: Tensor) -> Tensor:
        """Return weighted means."""
        return weights @ directions


@dataclass(frozen=True)
class HeadSpace:
    """One vector a row within the write space of one attention head: what that head can add to the residual stream."""

    place: Place
    bases: Tensor
    """[H, D, d] orthonormal bases of the columns of the output projection that belong to each head."""
    heads: Tensor
    """[N] the head of every row."""

    @property
    def places(self) -> Sequence[Place]:
        """The attention output projection of one block."""
        return (self.place,)

    @property
    def lengths(self) -> Sequence[int]:
        """One part, of the width of a head."""
        return (self.bases.shape[2],)

    @property
    def calibrating(self) -> "HeadSpace":
        """The space itself."""
        return self

    def apart(self, directions: Tensor) -> Tensor:
        """Return the directions as they are: they have one part."""
        return directions

    def perturbations(self, directions: Tensor, radius: float) -> Perturbations:
        """Return biases of norm `radius`, each within its head's write space."""
        return biases(self.place, radius * self._written(directions))

    def sized(self, count: int) -> "HeadSpace":
        """Return the space of so many rows: every head once in each run of H rows, in an order of its own."""
        size = len(self.bases)
        runs = [
            torch.randperm(size, generator=torch.Generator().manual_seed(seed_of("heads", run)))
            for run in range(-(-count // size))
        ]
        return replace(self, heads=torch.cat(runs)[:count])

    def rows(self, index: slice | Tensor) -> "HeadSpace":
        """Return the space of the named rows, each with its head."""
        return replace(self, heads=self.heads[index])

    def likeness(self, directions: Tensor) -> Tensor:
        """Return cosines as the vectors stand in the residual stream."""
        written = self._written(directions)
        return written @ written.T

    def _written(self, directions: Tensor) -> Tensor:
        """Return [N, D] what unit directions are in the residual stream."""
        # Not all at once, which would copy a basis for every row.
        some = _pieces(len(directions), self.bases[0].numel())
        return torch.cat(
            [torch.einsum("ndk,nk->nd", self.bases[self.heads[rows]].to(directions), directions[rows]) for rows in some]
        )

    def pulled(self, weights: Tensor, directions: Tensor) -> Tensor:
        """Return weighted means over the rows of the same head."""
        return (weights * (self.heads[:, None] == self.heads)) @ directions


@dataclass(frozen=True)
class LowRankSpace:
    """A change of rank r to one projection (an adapter), or one to each projection of a band (a factor of CPE).

    The published methods hold weights at a norm, and what reaches the residual stream is then whatever the inputs make of it.
    Here the norm of all that is written is held at the radius instead. Learned terms read few tokens much louder than the others,
    random ones do not: held for all tokens but the loudest, or at the radius at which random adapters do what random vectors do,
    learned ones write many times what a learned vector does, just where they are read, and break what is said. So an adapter,
    which is a vector at each token by itself, is held as a vector is: at no token of the prompts, massive ones aside, above the
    radius that random vectors calibrate.
    For factors of a band, random factors calibrate it, and it is held for the token that nine in ten stay below.
    """

    places: tuple[Place, ...]
    inputs: tuple[Tensor, ...]
    """Per place [M, F], what the projection is given at each of M tokens of the prompts, unsteered."""
    width: int
    """D."""
    rank: int
    """r."""
    weighed: bool
    """Whether the radius is the spectral norm of each rank-one term, as published, and not what reaches the residual stream."""
    as_vector: bool
    """Whether it is held as a vector is; of one place alone."""

    @property
    def lengths(self) -> Sequence[int]:
        """Per place, r rows that read and r columns that write."""
        return [size for given in self.inputs for size in (*[given.shape[1]] * self.rank, *[self.width] * self.rank)]

    @property
    def calibrating(self) -> Space:
        """Vectors where it is held as these are, else the space itself."""
        return VectorSpace(self.places[0], self.width) if self.as_vector and not self.weighed else self

    def apart(self, directions: Tensor) -> Tensor:
        """Return directions whose terms read at right angles in each place; where weights are held, as they are, as published.

        Of terms that climb one objective each becomes the best of all. Kept apart after every step they are those of a
        subspace iteration: the first as it was, the others the best of what those before it do not read.
        """
        if self.rank == 1 or self.weighed:
            return directions
        found = []
        for down, up in self._pairs(directions):
            reads = [orthonormalised(down[rows]).flatten(1) for rows in _pieces(len(down), down[0].numel())]
            found += [torch.cat(reads), up.flatten(1)]
        return torch.cat(found, dim=1)

    def perturbations(self, directions: Tensor, radius: float) -> Perturbations:
        """Return one low-rank change a place, all of a row under one scale."""
        pairs = self._pairs(directions)
        scale = torch.full((len(directions), 1, 1), radius).to(directions)
        if not self.weighed:
            # Without gradient: it says how far along a direction to go, and is not what is climbed.
            scale = radius / self._written([(down.detach(), up.detach()) for down, up in pairs])[:, None, None]
        nothing = directions.new_zeros(len(directions), self.width)
        changes = (Change(place, nothing, down, scale * up.mT) for place, (down, up) in zip(self.places, pairs, strict=True))
        return Perturbations(tuple(changes))

    def sized(self, count: int) -> "LowRankSpace":  # noqa: ARG002 - the same for every row.
        """Return the space itself."""
        return self

    def rows(self, index: slice | Tensor) -> "LowRankSpace":  # noqa: ARG002 - the same for every row.
        """Return the space itself."""
        return self

    def likeness(self, directions: Tensor) -> Tensor:
        """Return cosines between the changed weights, all places as one: a factor keeps its weights when a and b both turn."""
        products = torch.zeros(len(directions), len(directions)).to(directions)
        for down, up in self._pairs(directions):
            # Pairs of terms first: all four at once would pass through N * N residual streams of memory.
            products += (torch.einsum("nrf,msf->nrms", down, down) * torch.einsum("nrd,msd->nrms", up, up)).sum(dim=(1, 3))
        sizes = products.diagonal().clamp(min=1e-12).sqrt()
        return products / sizes / sizes[:, None]

    def pulled(self, weights: Tensor, directions: Tensor) -> Tensor:
        """Return weighted means of rows whose terms are turned to the side of the row they are taken for."""
        means = []
        for down, up in self._pairs(directions):
            same = torch.einsum("nrf,mrf->rnm", down, down) + torch.einsum("nrd,mrd->rnm", up, up)
            turned = weights * torch.where(same < 0, -1.0, 1.0)  # [r, N, N]
            means += [torch.einsum("rnm,mrf->nrf", turned, part).flatten(1) for part in (down, up)]
        return torch.cat(means, dim=1)

    def _pairs(self, directions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return per place what reads [N, r, F] and what writes [N, r, D]."""
        sizes = [self.rank * size for given in self.inputs for size in (given.shape[1], self.width)]
        parts = [part.unflatten(1, (self.rank, -1)) for part in directions.split(sizes, dim=1)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _written(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return [N]: the norm of all that is written, places together, that it stays below at every token or at nine in ten."""
        share = 1.0 if self.as_vector else LOUD
        inputs, count = [given.to(pairs[0][0]) for given in self.inputs], len(pairs[0][0])
        found = []
        # A bank or its null comes with all its rows at once, a search with few.
        for rows in _pieces(count, len(inputs[0]) * self.rank):
            squared = torch.zeros(1).to(inputs[0])
            for given, (down, up) in zip(inputs, pairs, strict=True):
                inner = read_by(down[rows], given)
                # ||inner up||^2 without a residual stream of memory for every perturbation.
                squared = squared + (inner @ (up[rows] @ up[rows].mT) * inner).sum(dim=-1)
            found.append(squared.clamp(min=0).sqrt().quantile(share, dim=1).clamp(min=1e-12))
        return torch.cat(found)


def places_of(config: SearchConfig, source_layer: int) -> list[Place]:
    """Return where perturbations of the kind that `config` asks for act, from the source layer on."""
    match config.perturbation:
        case Kind.vector:
            return [Place(source_layer, Site.residual)]
        case Kind.bias | Kind.adapter:
            return [Place(source_layer, Site.mlp)]
        case Kind.head:
            return [Place(source_layer, Site.attention)]
        case Kind.factor:
            return [Place(block, Site[config.projection.name]) for block in range(source_layer, source_layer + config.band)]


def space_of(config: SearchConfig, loaded: LoadedModel, part: ModelSlice, source_layer: int) -> Space:
    """Return the space of `config.vectors` perturbations of the kind that `config` asks for.

    Raises:
        UsageError: the attention output projection cannot be cut into heads, or an adapter has more terms than channels.
    """
    places = places_of(config, source_layer)
    match config.perturbation:
        case Kind.vector | Kind.bias:
            return VectorSpace(places[0], part.width)
        case Kind.head:
            return HeadSpace(
                places[0], torch.linalg.qr(head_columns(loaded, places[0])).Q.float(), torch.zeros(0, dtype=torch.long)
            ).sized(config.vectors)
        case Kind.adapter | Kind.factor:
            adapter = config.perturbation is Kind.adapter
            rank = config.rank if adapter else 1
            tokens = part.mask[:, part.first :].bool()
            if adapter:
                tokens = tokens & (part.source[:, part.first :].float().norm(dim=-1) <= MASSIVE * part.residual_norm)
            given = tuple(part.inputs[place][tokens].float() for place in places)
            if rank > (width := min(inputs.shape[1] for inputs in given)) and not config.weighed:
                raise UsageError(
                    f"search.rank={rank} terms cannot be kept apart in a projection that reads {width} channels; ask for at most "
                    f"{width}."
                )
            return LowRankSpace(tuple(places), given, part.width, rank, config.weighed, adapter)


def head_columns(loaded: LoadedModel, place: Place) -> Tensor:
    """Return [H, D, d] in float64 the columns of an attention output projection that belong to each head.

    Raises:
        UsageError: it cannot be cut into heads.
    """
    module, heads = loaded.anatomy.module(place), loaded.model.config.get_text_config(decoder=True).num_attention_heads
    weight = module.get_parameter("weight").detach().double().cpu()
    # GPT-2 keeps its weights transposed.
    columns = weight.T if isinstance(module, Conv1D) else weight  # [D, F]
    if columns.shape[1] % heads or columns.shape[1] // heads > len(columns):
        raise UsageError(
            f"The attention output projection of block {place.block} reads {columns.shape[1]} channels, which are not "
            f"{heads} heads; use another search.perturbation."
        )
    return columns.unflatten(1, (heads, -1)).transpose(0, 1)
