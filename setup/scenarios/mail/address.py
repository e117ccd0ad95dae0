"""Addresses that mean the same."""

import re


def plain(address):
    """An address with its local part unquoted (RFC 5321 §4.1.2: the quotes are no part of it)."""
    local, at, domain = address.rpartition("@")
    if local.startswith('"') and local.endswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain
