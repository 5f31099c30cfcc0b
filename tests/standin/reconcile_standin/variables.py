"""Session variables."""

from __future__ import annotations

import re

from reconcile_standin.problem import SqlError

MZ_VERSION = "v0.155.0-dev.0 (61f11dc12)"
ENVIRONMENT_ID = "local-az1-4c60c384-07de-4315-84be-0aeb241badc3-0"

_DEFAULTS = {
    "application_name": "", "client_encoding": "UTF8", "client_min_messages": "notice", "cluster": "quickstart",
    "cluster_replica": "", "current_object_missing_warnings": "on", "database": "materialize", "datestyle": "ISO, MDY",
    "auto_route_catalog_queries": "on", "emit_timestamp_notice": "off", "emit_trace_id_notice": "off",
    "extra_float_digits": "3", "failpoints": "", "idle_in_transaction_session_timeout": "2 min",
    "integer_datetimes": "on", "intervalstyle": "postgres", "is_superuser": "on", "max_identifier_length": "255",
    "max_connections": "5000", "max_query_result_size": "1GB",
    "max_result_size": "1GB", "mz_version": MZ_VERSION, "real_time_recency": "off", "search_path": "public",
    "server_version": "9.5.0", "server_version_num": "90500", "standard_conforming_strings": "on",
    "statement_timeout": "1 min", "timezone": "UTC", "transaction_isolation": "strict serializable",
    "welcome_message": "", "sql_safe_updates": "off", "statement_logging_sample_rate": "0.01",
}  # fmt: skip
# What a client learns at startup, in the recorded spelling.
REPORTED = (
    "server_version", "client_encoding", "TimeZone", "integer_datetimes", "mz_version", "cluster", "welcome_message",
    "standard_conforming_strings", "DateStyle", "application_name", "search_path", "database",
)  # fmt: skip
_ALIASES = {"schema": "search_path", "isolation": "transaction_isolation"}


def _bytes_of(text: str) -> int | None:
    amount = re.fullmatch(r"(\d+)\s*(?:([kMGT]?)B)?", text)
    if amount is None:
        return None
    units: int = 1024 ** " kMGT".index(amount[2] or " ")
    return int(amount[1]) * units


class Variables:
    """The variables of one session."""

    def __init__(self) -> None:
        self._values = dict(_DEFAULTS)

    def get(self, name: str) -> str:
        """A value by any case of its name."""
        found = self._values.get(self._key(name))
        if found is None:
            raise SqlError(f'unrecognized configuration parameter "{name}"', "42704")
        return found

    def set(self, name: str, value: str | None) -> None:
        """Change a value; None resets it."""
        self.get(name)
        key = self._key(name)
        if key == "max_query_result_size" and value is not None and _bytes_of(value) is None:
            raise SqlError(f'parameter "{key}" requires a "bytes" value', "22023")
        self._values[key] = _DEFAULTS[key] if value is None else value

    @staticmethod
    def _key(name: str) -> str:
        folded = name.lower()
        return _ALIASES.get(folded, folded)

    @property
    def result_limit(self) -> int | None:
        """max_query_result_size in bytes; None for the default, which is not counted for."""
        text = self.get("max_query_result_size")
        return None if text == _DEFAULTS["max_query_result_size"] else _bytes_of(text)

    @property
    def search_path(self) -> list[str]:
        """The schemas names are looked up in."""
        return [p.strip() for p in self.get("search_path").split(",")]
