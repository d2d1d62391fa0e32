"""The list of shipped configurations."""

from collections.abc import Sequence

from rqjax.run.shipped import Shipped, shipped


def main(_: Sequence[str]) -> None:
    """Prints each configuration and its variants."""
    for config in shipped():
        print("\n".join(_lines(config)))
    print("\nrqjax train --config NAME:VARIANT --workdir DIR; without :VARIANT it is the first")


def _lines(config: Shipped) -> list[str]:
    width = max(map(len, config.variants), default=0)
    variants = [f"    :{name:<{width}}  {meaning}" for name, meaning in config.variants.items()]
    return [f"{config.name}  {config.title}", *variants]
