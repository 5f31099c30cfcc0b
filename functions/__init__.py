"""Where `reconcile` runs without a machine of its own: one thin adapter per platform."""
