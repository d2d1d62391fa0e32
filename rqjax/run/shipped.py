"""The configurations that the package ships, as far as they can be known without running them."""

import ast
import dataclasses
import pathlib
from collections.abc import Iterator

FOLDERS = tuple(folder / "configs" for folder in pathlib.Path(__file__).parents[1:3])
"""Where they are: in an installed package inside of it, in a checkout beside it."""


@dataclasses.dataclass(frozen=True)
class Shipped:
    """One file of configs/."""

    path: pathlib.Path
    title: str  # the first line of its docstring
    variants: dict[str, str]  # its constant VARIANTS: names, the default first, and what each of them is

    @property
    def name(self) -> str:
        """The name for --config."""
        return self.path.stem


def shipped() -> Iterator[Shipped]:
    """All of them, by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    for path in sorted(folder.glob("*.py")) if folder else ():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        variants = ast.literal_eval(constants["VARIANTS"]) if "VARIANTS" in constants else {}
        yield Shipped(path, (ast.get_docstring(tree) or "").partition("\n")[0], variants)
