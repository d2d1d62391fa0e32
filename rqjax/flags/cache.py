"""The flag --compilation_cache of programs that compile."""

from absl import flags

NAME = "compilation_cache"


def define(values: flags.FlagValues) -> None:
    """Adds it to a verb's flags."""
    flags.DEFINE_string(
        NAME,
        None,
        "Folder or bucket for compiled programs, or `off`; else RQJAX_COMPILATION_CACHE, or else up to 2 GiB in"
        " ~/.cache.",
        flag_values=values,
    )
