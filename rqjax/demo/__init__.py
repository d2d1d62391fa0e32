"""A page for a prior, served by this machine: images drawn by a form, and what the tokenizer makes of one's own."""
