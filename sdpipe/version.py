"""The version of sdpipe."""

__version__ = "0.1.0"
