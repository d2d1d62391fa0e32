"""Records of the classes, functions and objects that a pickle names and that are not made."""

import dataclasses

from rqjax.errors import printable


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Foreign:
    """A class, function or object that a pickle names: only what was said about it is recorded.

    `arguments` is None for the name itself; else what it was to be called with. `state`, `items` and `entries` hold
    what was to be set, appended and mapped: the contents of an `AttributeDict` are its `entries`.
    """

    module: str
    name: str
    arguments: tuple[object, ...] | None = None
    state: object = None
    items: list[object] = dataclasses.field(default_factory=list)
    entries: dict[object, object] = dataclasses.field(default_factory=dict)

    def append(self, item: object) -> None:
        self.items.append(item)

    def extend(self, items: list[object]) -> None:
        self.items.extend(items)

    def __repr__(self) -> str:
        return f"<Foreign {printable(self.module, 60)}.{printable(self.name, 60)}>"
