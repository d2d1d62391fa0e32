"""A trained model against images: the figures of papers, with everything that decides them."""
