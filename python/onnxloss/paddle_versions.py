# SPDX-License-Identifier: MIT
"""What the mean of Paddle's cross entropy divides by, version by version."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from .errors import expected

NEWEST_KNOWN = "3.3"
"""The Paddle version that is taken where none is given or installed."""

_VERSIONS = '"2.0" to "2.4", "2.6", "2.6-static", "3.x" or "3.x-static"'


def counts_valid(ignore_index: int, rule: str) -> bool:
    """Whether an unweighted mean divides by the number of labels that are not ignored."""
    if rule == "not -100":
        return ignore_index != -100
    return rule == "always" or ignore_index >= 0


def denominator_rule(paddle_version: str | None) -> str:
    """When an unweighted mean leaves ignored labels out of its denominator.

    "not -100": for every ignore_index but the default (to 2.4). "always" (2.6). "in range": for
    one that is not negative (3.x). "static": as that, and no position gives 0 (static graphs).
    """
    given = paddle_version or _installed() or NEWEST_KNOWN
    match = re.fullmatch(r"(\d+)\.(\d+|x)(?:\.\w+)*(-static)?", str(given))
    if match is None:
        raise expected("from_paddle", "paddle_version", given, _VERSIONS)
    major, minor, static = match.groups()
    if major == "3" or (major, minor) == ("2", "6"):
        if static:
            return "static"
        return "in range" if major == "3" else "always"
    if major == "2" and minor in ("0", "1", "2", "3", "4") and not static:
        return "not -100"
    raise expected("from_paddle", "paddle_version", given, _VERSIONS)


def _installed() -> str | None:
    for package in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            pass
    return None
