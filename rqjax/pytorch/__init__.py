"""State dicts and files of PyTorch, read and written without PyTorch."""
