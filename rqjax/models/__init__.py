"""Tokenizers and priors: what they are, what they lose, what they generate."""
