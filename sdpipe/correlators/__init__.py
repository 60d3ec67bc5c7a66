"""Correlators of users: file formats, statistics, folding."""
