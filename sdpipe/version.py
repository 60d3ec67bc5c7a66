"""The version of sdpipe, and of what it writes."""

__version__ = "0.1.0"

SCHEMA = 7
"""Version of the layout of every store and network; a reader refuses any other."""
