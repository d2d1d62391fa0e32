"""The flags of a program that several processes run together."""

from absl import flags

NAMES = ("coordinator", "processes", "process_id")


def define(values: flags.FlagValues) -> None:
    """Adds --coordinator, --processes, --process_id and the times of their meeting to a verb's flags."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT where process 0 of several waits.", flag_values=values)
    flags.DEFINE_integer("processes", None, "How many processes the run has.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which of them this one is: 0, 1, ...", flag_values=values)
    flags.DEFINE_integer(
        "coordinator_port",
        None,
        "On TPU VMs: the port where process 0 waits, if a firewall closes JAX's own (8482).",
        lower_bound=1,
        upper_bound=65535,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "join_seconds", 300, "How long a process waits for the others at the start.", lower_bound=1, flag_values=values
    )
