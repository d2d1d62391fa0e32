"""The names of the precisions that priors draw in: those of nets.precision, which imports JAX, as flags do not."""

NAMES = ["float32", "bfloat16", "int8"]
