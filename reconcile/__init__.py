"""Keeps a Redis cache equal to a Materialize view, from runs that start, do their work and exit."""

__version__ = "0.1.0"
