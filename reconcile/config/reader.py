"""Turn a Given into its typed value: expand, fetch, parse. Every failure becomes a ConfigError with the place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from reconcile.config import document
from reconcile.config.layers import Given, Layer
from reconcile.config.settings import Secret
from reconcile.config.values import Key, Raw, Wrong


class ValueReader:
    """`base`: the folder to which paths of secrets in the file are relative."""

    def __init__(self, environ: Mapping[str, str], base: str) -> None:
        self.environ = environ
        self._base = base

    def value(self, key: Key, given: Given) -> Any:
        """Return the typed value. Raises ConfigError."""
        raw = self._raw(key, given)
        try:
            parsed = key.kind.parse(raw)
        except Wrong as error:
            raise given.error(error.problem, error.hint) from None
        except ValueError:
            raise given.error(f"expected {key.kind.expects}{_found(key, given, raw)}", key.kind.hint) from None
        return Secret(str(parsed)) if key.secret and parsed is not None else parsed

    def _raw(self, key: Key, given: Given) -> Raw:
        raw = given.raw
        if isinstance(raw, bool):
            return raw
        if isinstance(raw, tuple):
            return tuple(self._expanded(key, given, one) for one in raw)
        raw = self._expanded(key, given, raw)
        if given.via == "file":
            return _read_file(given, raw, self._base)
        return _read_arn(given, raw) if given.via == "arn" else raw

    def _expanded(self, key: Key, given: Given, text: str) -> str:
        if given.layer is not Layer.FILE or not document.has_reference(text):
            return text
        try:
            return document.expand(text, self.environ)
        except document.Unresolved as error:
            if key.secret and not error.whole:
                raise given.error(
                    "a ${…} in it has no value",
                    "set the variable it names, or write ${VAR:-default}; $${ stands for a literal ${",
                ) from None
            raise given.error(error.problem, error.hint) from None


def _found(key: Key, given: Given, raw: Raw) -> str:
    """Return what was found instead; nothing for secrets, or for text from a variable."""
    if isinstance(raw, bool):
        return f", found {str(raw).lower()}"
    if not raw:
        return ", found an empty text" if raw == "" else ", found an empty list"
    if key.secret or raw != given.raw or isinstance(raw, tuple) or "://" in raw or "@" in raw:
        return ""  # a URL in the wrong place might hold a password
    return f", found {raw[:40]!r}{'…' if len(raw) > 40 else ''}"


SECRET_MAX_BYTES = 64 * 1024


def _read_file(given: Given, path: str, base: str) -> str:
    """Return the file's text without one trailing newline.

    A path in a configuration file is relative to that file. Errors quote only absolute paths: other text may be the
    secret itself, given under the wrong name.
    """
    full = os.path.join(base, path) if given.layer is Layer.FILE else path
    shown = f"{path!r}: " if os.path.isabs(path) else ""
    try:
        with open(full, "rb") as file:
            content = file.read(SECRET_MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise given.error(f"{shown}{reason}", "name a file this user may read") from None
    except ValueError:
        raise given.error("not a path", "name a file this user may read") from None
    if len(content) > SECRET_MAX_BYTES:
        raise given.error(f"{shown}larger than 64 KB", "name the file that holds only the secret")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise given.error(f"{shown}not UTF-8", "name the file that holds only the secret") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise given.error(f"{shown}empty", "write the secret into it")
    return text


def _read_arn(given: Given, arn: str) -> str:
    """Fetch arn:aws:secretsmanager:<region>:<account>:secret:<name>[:<json-key>] by boto3, which nothing else needs."""
    parts = arn.rstrip(":").split(":")
    if len(parts) not in (7, 8) or parts[0] != "arn" or parts[2] != "secretsmanager" or parts[5] != "secret":
        raise given.error("not the ARN of a secret", "arn:aws:secretsmanager:region:account:secret:name[:json-key]")
    try:
        import boto3  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise given.error(
            "needs boto3, which is not installed", "pip install boto3, or give the secret in a file"
        ) from None
    try:
        client = boto3.client("secretsmanager", region_name=parts[3])
        text = client.get_secret_value(SecretId=":".join(parts[:7]))["SecretString"]
    except Exception as error:  # boto3's own tree, which cannot be named without importing it
        kind = type(error).__name__
        raise given.error(f"AWS Secrets Manager refused: {kind}", "check the ARN and the role's permission") from error
    return _member(given, text, parts[7]) if len(parts) == 8 else str(text)


def _member(given: Given, text: str, name: str) -> str:
    import json

    try:
        value = json.loads(text)[name]
    except (ValueError, KeyError, TypeError, IndexError):
        value = None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise given.error(
            "the secret is not a JSON object with this key", "check the part after the last ':'"
        ) from None
    return str(value)
