"""The limits of one chip of each TPU generation."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak figures of one chip, from its maker's pages; what a program may use of the memory is the compiler's own."""

    bfloat16: float  # operations a second
    memory: float  # bytes a second
    links: float  # bytes a second over all links to other chips of the slice
    budget: float  # bytes that a program may use
    mode: str = ""  # what the compiler calls the one whose two cores are one device, where that is not its default


GIB = 2**30
CHIPS = {
    "v4": Chip(275e12, 1228e9, 300e9, 30.75 * GIB, "megacore"),
    "v5e": Chip(197e12, 819e9, 200e9, 15.75 * GIB),
    "v5p": Chip(459e12, 2765e9, 600e9, 95.73 * GIB),
    "v6e": Chip(918e12, 1640e9, 448e9, 31.24 * GIB),
}
NETWORK = 25e9 / 4
"""Bytes a second and chip between slices: 200 Gbit/s for a host of four chips."""
