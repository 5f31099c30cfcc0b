"""What Google's buildpack looks for: the entry points `reconcile_http` and `reconcile_event`."""

from functions.gcp import reconcile_event, reconcile_http

__all__ = ["reconcile_event", "reconcile_http"]
