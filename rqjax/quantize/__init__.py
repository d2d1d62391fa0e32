"""Quantizers as pure functions on pytrees; nothing here imports the rest of rqjax."""
