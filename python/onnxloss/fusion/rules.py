# SPDX-License-Identifier: MIT
"""Rewrite rules as pairs of functions: what is looked for, and what is written in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from ..errors import LossError
from .emit import NoLossError, UnfitError

Build = Callable[..., ir.Value]


@dataclass
class State:
    """What the rules share: the graph that they may change, and why a place was left alone.

    `reasons` has the name of the value at whose node a form ends, and the reason.
    """

    graph: ir.Graph
    reasons: dict[str, str] = field(default_factory=dict)


def rule(state: State, pattern: Callable[..., Any], build: Build, *, keep: bool = False) -> Any:
    """The rewrite rule that replaces what `pattern` matches by what `build` returns.

    Args:
        state: The shared state.
        pattern: Of onnxscript's rewriter; its result is called `root`.
        build: Takes `op` and the pattern's values by name; raises UnfitError to leave the place.
        keep: Whether nodes inside the pattern may have other uses.
    """

    def replacement(op: Any, **values: Any) -> Any:
        root: ir.Value = values["root"]
        node = root.producer()
        if node is None or node.graph is not state.graph:
            return _unfit(state, root, "it is in a branch, a loop or a function")
        try:
            return build(op, **values)
        except NoLossError as error:
            return MatchResult().fail(str(error))
        except (UnfitError, LossError) as error:
            return _unfit(state, root, str(error))

    return RewriteRule(pattern, replacement, remove_nodes=not keep)


def _unfit(state: State, root: ir.Value, reason: str) -> MatchResult:
    if root.name:
        state.reasons[root.name] = reason
    return MatchResult().fail(reason)
