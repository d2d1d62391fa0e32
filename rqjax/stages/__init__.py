"""What is trained: a stage is its initial state, one step, and a preview."""
