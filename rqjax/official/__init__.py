"""The official implementations' files: their tensors' names, their YAML, and the recipes that trained them."""
