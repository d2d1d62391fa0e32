"""The largest sizes of a configuration, far above any model that was published: to read one costs little, whoever wrote
it. They are compared before anything is computed from the fields."""

import dataclasses

from rqjax.errors import InputError, printable

ELEMENTS = 64
"""The most elements of a list, for a level, a depth or a dimension each."""
OTHERS = 2**63 - 1
_LAYERS = (
    *("layers", "body_layers", "head_layers", "position_layers", "content_layers", "text_layers"),
    *("num_res_blocks", "decoder_num_res_blocks", "disc_num_layers"),
)
_WIDTHS = (
    *("dim", "text_dim", "embed_dim", "z_channels", "width", "disc_ndf"),
    *("ch", "ch_mult", "decoder_ch", "decoder_ch_mult"),
)
_SIDES = ("resolution", "size", "resize", "grids", "code_shape", "attn_resolutions", "decoder_attn_resolutions")
_CODES = ("codebook_size", "classes", "text_vocab")
MOST = {
    **dict.fromkeys(_LAYERS, 1000),
    "depth": ELEMENTS,
    **dict.fromkeys(_WIDTHS, 2**16),
    "input_dim": 2**20,
    **dict.fromkeys(_SIDES, 2**14),
    **dict.fromkeys(_CODES, 2**24),
}
"""By the name of a field, its largest whole number; all others have at most OTHERS."""


def check_limits(config: object, where: str = "config") -> None:
    """Raises InputError for a list too long or a whole number too large, in a configuration or in those inside it."""
    for field in dataclasses.fields(config):  # pyrefly: ignore  (a dataclass)
        name, value = f"{where}.{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_limits(value, name)
        else:
            check_limit(name, value)


def check_limit(name: str, value: object) -> None:
    """Raises InputError for a value too large for the field of the dotted `name`, or a list too long."""
    values = value if isinstance(value, tuple | list) else (value,)
    if len(values) > ELEMENTS:
        raise InputError(f"{name} has {len(values)} elements: expected at most {ELEMENTS}")
    most = MOST.get(name.split(".")[-1], OTHERS)
    if large := [x for x in values if isinstance(x, int) and abs(x) > most]:
        raise InputError(f"{name} is {printable(large[0], 60)}: expected at most {most}")
