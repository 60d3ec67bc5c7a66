"""Networks and their training: PyTorch and NumPy only where training runs."""
