"""Contenders: what a search chooses among."""

from msgspec import Struct
from msgspec.structs import replace

from ..measure.tables import Costs, Table


class Contender(Struct, frozen=True, kw_only=True):
    """A chain, or the static network that ends at one of its exits, by the samples that choose and by the others.

    Attributes:
        way: which way it belongs to.
        static: the exit at which a static network ends; None for the chain.
        known, table: of the samples that choose, and of the others.
    """

    way: int
    static: int | None
    known: Table
    table: Table

    def with_costs(self, costs: Costs, proof: Costs | None = None) -> "Contender":
        """Return it with other costs."""
        return replace(
            self, known=replace(self.known, costs=costs), table=replace(self.table, costs=costs, proof=proof)
        )
