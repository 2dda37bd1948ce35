"""Recorded decisions for the commands that ask a policy again: the audit log itself, or records exported from it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.settings import Settings
from gateway.settings.file import load
from governance.audit.checked import checked_records
from governance.audit.erasure import open_vault
from governance.audit.layout import Layout
from governance.audit.verify import read_keys


class NoLogError(ValueError):
    """Recorded decisions, or the settings that they go with, cannot be read; the text says where and what to do."""


def settings_of(path: Path) -> Settings:
    """Settings of a file. Raises NoLogError: they have errors."""
    settings, findings = load(path)
    if settings is None:
        error = next(finding for finding in findings if finding.severity == "error")
        raise NoLogError(f"{error}; `tidegate check {path}` lists them")
    return settings


@contextmanager
def records(args: argparse.Namespace) -> Iterator[Iterator[dict[str, Any]]]:
    """The records of `--log`, with people's names where `--config` leads to their keys.

    Raises NoLogError, AuditError; also while they are read.
    """
    path, key = args.log, args.key
    if not path.is_dir():
        yield _exported(path)
        return
    if key is None:
        key = path / "log.vkey"
        if not key.exists():
            raise NoLogError(f"{path}: there is no log.vkey in it: give the log's vkey file, `--key FILE`")
    keys = read_keys(key)
    settings = None if args.config is None else settings_of(args.config)
    # `lint` and `report` are given settings for the names in them, and most seal nobody.
    if settings is None or not (settings.audit.erasure or Layout(settings.state_dir).vault.exists()):
        yield checked_records(path, keys)
        return
    with open_vault(Layout(settings.state_dir)) as vault:
        yield checked_records(path, keys, vault.reveal())


def _exported(path: Path) -> Iterator[dict[str, Any]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    message = (
                        f"{path}:{number}: no record ({error}): a line is one JSON object, as `audit export` writes it"
                    )
                    raise NoLogError(message) from None
    except OSError as error:
        raise NoLogError(f"{path}: cannot be read ({error.strerror}): check the path and its rights") from None
