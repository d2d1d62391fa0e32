"""Two-stage image generation with residual and dynamic quantizers, in JAX."""
