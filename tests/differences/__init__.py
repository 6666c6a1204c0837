# SPDX-License-Identifier: MIT
"""What the frameworks answer to one question, and what the exported models answer.

`docs/differences.md` shows these tables. `tests/test_differences.py` runs the exported models,
`tests/frameworks/test_*_differences.py` the frameworks themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.differences.answers import INF, Recorded, Row
from tests.differences.labels import LABELS, SMOOTHED
from tests.differences.positions import COUNTS, WEIGHTED
from tests.differences.values import DTYPES, EXTREMES, INPUTS

SECTIONS: Mapping[str, tuple[Row, ...]] = {
    "Which positions count": COUNTS,
    "Weights": WEIGHTED,
    "Label smoothing": SMOOTHED,
    "Labels, shapes, reductions": LABELS,
    "Extreme values": EXTREMES,
    "Probabilities for logits": INPUTS,
    "Number types": DTYPES,
}

RECORDED = (
    Recorded("torch-058", "dlogits", (1, 0), 0.0),
    Recorded("torch-060", "loss", (0,), 0.0),
    Recorded("torch-090", "loss", (0,), 0.813262),
    Recorded("paddle-055", "loss", (0,), INF),
    Recorded("paddle-081", "dlogits", (0, 0), -0.380605),
    Recorded("paddle-082", "dlogits", (0, 0), -0.864954),
    Recorded("paddle-084", "dlogits", (0, 0), -1.581248),
    Recorded("paddle-125", "loss", (), 0.5508),
    Recorded("tf-086", "dlogits", (0, 0, 0), 0.313861),
    Recorded("tf-094", "loss", (), 1.313262),
)
ANSWERS = tuple(answer for rows in SECTIONS.values() for row in rows for answer in row.answers)
