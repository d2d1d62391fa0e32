"""The flag --overwrite of programs that write files."""

from absl import flags


def define(values: flags.FlagValues) -> flags.FlagHolder[bool]:
    """Adds it to a verb's flags."""
    return flags.DEFINE_bool(
        "overwrite", False, "Write over what is there already, which is an error otherwise.", flag_values=values
    )
