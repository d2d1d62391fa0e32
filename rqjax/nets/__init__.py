"""Networks: arrays to arrays, no losses and no state."""
