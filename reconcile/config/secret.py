"""Where secrets come from when they are not written down: a file, or AWS Secrets Manager."""

from __future__ import annotations

import os

from reconcile.config.given import Given, Layer

SECRET_MAX_BYTES = 64 * 1024


def read_file(given: Given, path: str, base: str) -> str:
    """The file's text without one trailing newline. A path in a configuration file is relative to that file.

    Only an absolute path is quoted in errors: other text may be the secret itself, put under the wrong name.
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


def read_arn(given: Given, arn: str) -> str:
    """arn:aws:secretsmanager:<region>:<account>:secret:<name>[:<json-key>] by boto3, which only this needs."""
    parts = arn.rstrip(":").split(":")
    if len(parts) not in (7, 8) or parts[0] != "arn" or parts[2] != "secretsmanager" or parts[5] != "secret":
        raise given.error("not the ARN of a secret", "arn:aws:secretsmanager:region:account:secret:name[:json-key]")
    try:
        import boto3  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise given.error(
            "needs boto3, which is not installed", "pip install boto3, or give the secret as a file"
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
