"""What the Azure Functions host looks for: `app`, the v2 programming model's list of functions."""

from functions.azure import app

__all__ = ["app"]
