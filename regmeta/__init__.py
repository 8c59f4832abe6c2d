"""regmeta: the metadata database of an OCI registry, bound to its storage."""

__version__ = "0.1.0"
