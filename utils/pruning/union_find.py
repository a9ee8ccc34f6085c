"""Which integers belong together: union-find with path halving.

>>> classes = UnionFind()
>>> classes.grow(4)
>>> classes.union(3, 1)
>>> classes.roots().tolist()
[0, 1, 2, 1]
"""

import numpy as np
from numpy.typing import NDArray


class UnionFind:
    """Classes of the integers from 0 on; the smallest member names its class."""

    def __init__(self) -> None:
        self.parent: list[int] = []

    def grow(self, count: int) -> None:
        """Add `count` integers, each a class of its own."""
        self.parent.extend(range(len(self.parent), len(self.parent) + count))

    def find(self, item: int) -> int:
        """The smallest member of the class of `item`."""
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def union(self, first: int, second: int) -> None:
        """Make one class of two."""
        first, second = self.find(first), self.find(second)
        self.parent[max(first, second)] = min(first, second)

    def roots(self) -> NDArray[np.intp]:
        """(integers,) the name of the class of each."""
        names = np.array(self.parent, dtype=np.intp)
        while ((further := names[names]) != names).any():
            names = further
        return names
