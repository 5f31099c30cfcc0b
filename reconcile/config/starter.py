"""What `reconcile init` prints: a configuration to begin with. Comments say what else there is."""

from __future__ import annotations

from typing import Final

STARTER: Final = """\
# Configuration of reconcile. Check it with: reconcile config check; then: reconcile doctor
# Every value may come from the environment instead, e.g. MATERIALIZE_PASSWORD, REDIS_URL, RECONCILE_REDIS__HOST.

materialize:
  host: your-materialize-host
  port: 6875
  user: your-user
  database: materialize
  # Secrets: MATERIALIZE_PASSWORD in the environment, or a file:
  # password_file: /run/secrets/materialize
  # Materialize Cloud wants TLS:
  # sslmode: require
  # cluster: your_cluster              # default: the role's own

redis:
  host: your-redis-host
  port: 6379
  db: 0
  # REDIS_PASSWORD in the environment, or a file:
  # password_file: /run/secrets/redis
  # username: reconcile
  # tls: true
  # cluster: true                      # a Redis Cluster (ElastiCache in cluster mode, MemoryDB); host: any of its nodes

views:
  - name: default
    # A query with one key and one value column; or `relation: schema.view` for a whole view.
    sql: SELECT key, value FROM your_view
    # key: key                         # the query's key column
    # value: value                     # the query's value column
    # Keys in Redis are app:<key>. All keys under the prefix belong to this view: those it does not have are removed.
    key_prefix: app
    # Materialize keeps the fingerprints of a companion view: reconcile init --digest-view prints its statements.
    # digest_view: your_view_digest
    # buckets: 1024
    # max_delete_fraction: 0.3         # deleting a larger share of the keys needs --allow-deletes
    # deep_every: 24h                  # how often a snapshot compares every row with what Redis really holds

# limits:
#   memory_max: 48MB
#   max_runtime: 55s                   # end by itself, on a committed time
#   lease: 15s                         # how long a killed run can delay its successor

# logging:
#   level: INFO
"""
