"""RQ-VAE and RQ-Transformer (Lee et al., CVPR 2022)."""
