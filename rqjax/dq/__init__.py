"""DQ-VAE and DQ-Transformer (Huang et al., CVPR 2023)."""
