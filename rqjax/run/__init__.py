"""One run, from its description to its folder: the only room that knows stages and the disk at once."""
