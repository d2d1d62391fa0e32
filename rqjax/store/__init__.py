"""Arrays on disk: checkpoints, model folders, atomic writes. It stands on no model."""
