"""The published recipes as functions, one per part: what configs/ and imported files have in common."""
