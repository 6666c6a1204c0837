# SPDX-License-Identifier: MIT
"""The formulas of the SPECs, which are plain text, as LaTeX."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r'(?P<quoted>"[^"]*"|[A-Za-z]{2,}-[a-z]{2,})'
    r"|sum_(?:\{(?P<range>[^}]*)\}|(?P<index>\w+))"
    # An index has one or two signs; what is longer after an underscore belongs to the name.
    r"|(?P<name>[A-Za-z]+(?:_[A-Za-z]{3,})*)(?:_(?P<below>[A-Za-z\d]{1,2})(?!\w))?"
    r"|_(?P<after>[a-z]{1,2})"
    r"|(?P<gap> {2,})"
    r"|(?P<sign><=|!=|\.\.|.)"
)
_FUNCTIONS = {"log": r"\log ", "exp": r"\exp ", "tanh": r"\tanh ", "inf": r"\infty "}
_SIGNS = {"<=": r"\le ", "!=": r"\ne ", "..": r"\ldots ", "*": r"\cdot ", "_": r"\_"}
_SPACE, _NARROW = r"\ ", r"\,"


def latex(formula: str) -> str:
    r"""A formula as LaTeX, line by line; two spaces or more part a line's columns.

    Example:
        >>> print(latex('lse_i = log sum_c exp(x_ic)   0 with from_logits = 0'))
        \begin{array}{l}
        \text{lse}_{i} = \log \sum_{c} \exp (x_{ic})\qquad 0 \ \text{with}\ \text{from\_logits} = 0
        \end{array}
    """
    lines = [_line(re.sub(r" +=", " =", line)) for line in formula.splitlines() if line.strip()]
    body = " \\\\\n".join(lines)
    return f"\\begin{{array}}{{l}}\n{body}\n\\end{{array}}"


def _line(line: str) -> str:
    written = "".join(_written(token) for token in _TOKEN.finditer(line))
    once = re.sub(r"(\\ )[\\ ]*\\ ", r"\1", written)
    return re.sub(r"(?<!\\) +", " ", once)


def _written(token: re.Match[str]) -> str:
    """One token. In LaTeX a space counts for nothing: words bring their own."""
    if token["quoted"]:
        return rf"\text{{{_escaped(token['quoted'])}}}"
    if token["range"] or token["index"]:
        return rf"\sum_{{{_line(token['range'] or token['index'])}}} "
    if token["name"]:
        return _name(token)
    if token["after"]:
        return f"_{{{token['after']}}}"
    if token["gap"]:
        return r"\qquad "
    return _SIGNS.get(token["sign"], token["sign"])


def _name(token: re.Match[str]) -> str:
    name, below = token["name"], token["below"]
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    written = name if len(name) == 1 else rf"\text{{{_escaped(name)}}}"
    if len(name) == 1:
        return f"{written}_{{{below}}}" if below else written
    before = re.search(r'[\w"),;:] $', token.string[: token.start()])
    if below:  # a factor
        return rf"{_NARROW if before else ''}{written}_{{{below}}}"
    after = re.match(r' [\w"(-]', token.string[token.end() :])
    return f"{_SPACE if before else ''}{written}{_SPACE if after else ''}"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")
