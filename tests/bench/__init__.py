"""`make bench`: what reconcile costs, as ratios measured within one run. docs/performance.md says how to read it."""
