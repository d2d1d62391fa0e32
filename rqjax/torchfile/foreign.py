"""What a pickle may bring forth: inert records of foreign names, objects of our constructors, bounded containers."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np

from rqjax.errors import InputError

NESTING = 200
"""The deepest that containers may nest."""
SCALARS = (str, bytes, int, float, complex, bool, type(None), np.generic)


class Foreign:
    """A class, function or object that the pickle names and that was not made: only what was said about it is recorded.

    `arguments` is None for the name itself; else what it was to be called with. `state`, `items` and `entries` hold
    what was to be set, appended and mapped: the contents of an `AttributeDict` are its `entries`.
    """

    __slots__ = ("arguments", "entries", "items", "keywords", "module", "name", "state")

    def __init__(self, module: str, name: str, arguments: Any = None, keywords: Any = None):
        self.module, self.name, self.arguments, self.keywords = module, name, arguments, keywords
        self.state: Any = None
        self.items: list[Any] = []
        self.entries: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<Foreign {self.module[:60]}.{self.name[:60]}>"


class Constructor(Foreign):
    """A name on the allow-list, with the function of ours that builds its objects."""

    __slots__ = ("build", "parameters")

    def __init__(self, module: str, name: str, build: Callable[..., Any]):
        super().__init__(module, name)
        self.build, self.parameters = build, signature(build)

    def construct(self, arguments: tuple[Any, ...]) -> Any:
        """The object built from `arguments`; InputError if they are not those of this constructor."""
        try:
            self.parameters.bind(*arguments)
        except TypeError as error:
            raise InputError(f"{self.name} is called wrongly ({error})") from None
        return self.build(*arguments)


def hashable(key: Any, depth: int = 2) -> Any:
    """`key`, if it hashes in bounded time: hashing nested tuples can take exponential time or overflow the stack.

    Raises InputError for any other key: a container, a long integer, a tuple longer than 16 or nested deeper than two.
    """
    if isinstance(key, int) and not -(2**63) <= key < 2**64:
        raise InputError("a dictionary key is an integer of more than 64 bits")
    if isinstance(key, tuple) and len(key) <= 16 and depth:
        return tuple(hashable(part, depth - 1) for part in key)
    if not isinstance(key, (*SCALARS, Foreign, frozenset)):
        raise InputError(f"a dictionary key or a member of a set is a {type(key).__name__}")
    return key


def _children(node: Any) -> list[Any]:
    if isinstance(node, (list, tuple, set, frozenset)):
        return list(node)
    if isinstance(node, dict):
        return [*node.keys(), *node.values()]
    if isinstance(node, Foreign):
        return [node.arguments, node.keywords, node.state, node.items, node.entries]
    return []


def check_nesting(root: Any) -> None:
    """Raises InputError where containers nest deeper than NESTING; walks without recursion, and shared parts once."""
    heights: dict[int, int] = {id(root): 0}
    path = [(root, iter(_children(root)))]
    while path:
        node, rest = path[-1]
        child = next(rest, path)
        if child is path:  # the end of the children: no child can be the path itself
            path.pop()
            if path:
                parent = id(path[-1][0])
                heights[parent] = max(heights[parent], heights[id(node)] + 1)
        elif isinstance(child, (list, tuple, set, frozenset, dict, Foreign)):
            if len(path) + heights.get(id(child), 0) > NESTING:
                raise InputError(f"its containers nest deeper than {NESTING}")
            if id(child) in heights:
                heights[id(node)] = max(heights[id(node)], heights[id(child)] + 1)
            else:
                heights[id(child)] = 0
                path.append((child, iter(_children(child))))
