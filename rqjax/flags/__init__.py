"""The flags of each verb, apart from its program: help and mistakes in a flag need no JAX."""
