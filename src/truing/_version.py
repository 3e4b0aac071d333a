"""The version of truing."""

__version__ = "0.1.0"
