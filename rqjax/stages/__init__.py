"""The kinds of training: a stage is its initial state, one step, and a preview."""
