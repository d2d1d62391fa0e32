"""The gradients of a product with weights on a CPU: as JAX derives them, and as nets/matmul.py does.

    PYTHONPATH=. .venv/bin/python benchmarks/weight_gradients.py [TOKENS:INPUTS:OUTPUTS ...]

TOKENS, INPUTS and OUTPUTS are one or several numbers with commas between them, the axes of the arrays. Prints the
medians of five runs each, in turn, and their ratio. Asserts nothing.
"""

import sys

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.kernel_gradients import medians
from rqjax.nets.matmul import matmul

SHAPES = ("8,64,4:512:16384", "512,4:512:2048", "512,4:2048:512", "512,4:512:8,64", "512,4:8,64:512", "2,64:1024:16,64")
"""Those of the small prior's classifier and head, and of a query of 350M, whose gradient by its inputs matters too."""


def main() -> None:
    table = Table("tokens:inputs:outputs", "derived, ms", "matmul.py, ms", "ratio")
    for shape in sys.argv[1:] or SHAPES:
        tokens, inputs, outputs = (tuple(map(int, axes.split(","))) for axes in shape.split(":"))
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = ((*tokens, *inputs), (*inputs, *outputs), (*tokens, *outputs))
        x, kernel, gradient = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
        summed = (tuple(range(len(tokens), x.ndim)), tuple(range(len(inputs))))

        def gradients(function, x, kernel, gradient, axes=(summed, ((), ()))):
            return jax.vjp(lambda x, kernel: function(x, kernel, axes), x, kernel)[1](gradient)

        ways = [jax.jit(lambda *a, f=f: gradients(f, *a)) for f in (jax.lax.dot_general, matmul)]
        derived, ours = medians(ways, x, kernel, gradient)
        table.add_row(shape, f"{1000 * derived:.1f}", f"{1000 * ours:.1f}", f"{derived / ours:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
