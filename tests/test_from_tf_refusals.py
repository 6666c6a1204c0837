# SPDX-License-Identifier: MIT
"""from_tf: what TensorFlow and Keras refuse, or do not know, is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxloss
from tests.test_from_tf import CC, DENSE, SCC, SPARSE, V1


def exporting(config: onnxloss.LossConfig, **settings: Any) -> onnx.ModelProto:
    return onnxloss.export(config, **{"logits": (2, 3), **settings})


REFUSED: tuple[tuple[str, Callable[[], Any], str], ...] = (
    ("loss", lambda: onnxloss.from_tf("tf.nn.softmax"), "loss is"),
    ("object", lambda: onnxloss.from_tf(3), "loss is"),
    ("setting", lambda: onnxloss.from_tf(V1, axis=1), "axis is not a setting"),
    ("reduction v1", lambda: onnxloss.from_tf(V1, reduction="mean"), 'reduction is "mean"'),
    ("reduction None", lambda: onnxloss.from_tf(V1, reduction=None), "reduction is None"),
    ("reduction", lambda: onnxloss.from_tf(CC, reduction="auto"), 'reduction is "auto"'),
    ("weights None", lambda: onnxloss.from_tf(V1, weights=None), "weights is None"),
    ("weights text", lambda: onnxloss.from_tf(V1, weights="all"), 'weights is "all"'),
    ("smoothing", lambda: onnxloss.from_tf(CC, label_smoothing="0.1"), "label_smoothing is"),
    ("infinite", lambda: onnxloss.from_tf(V1, label_smoothing=np.inf), "label_smoothing is inf"),
    ("collection", lambda: onnxloss.from_tf(V1, loss_collection=["a"]), "loss_collection is"),
    ("scope", lambda: onnxloss.from_tf(V1, scope=3), "scope is 3"),
    ("fused axis", lambda: onnxloss.from_tf(DENSE, axis=-2), "axis is -2"),
    ("axis as bool", lambda: onnxloss.from_tf(CC, axis=True), "axis is True"),
    ("sparse axis", lambda: onnxloss.from_tf(SCC, axis=-2), "axis is -2"),
    ("ignore_class", lambda: onnxloss.from_tf(SCC, ignore_class=1.5), "ignore_class is 1.5"),
    (
        "ignore_class of more bits",
        lambda: onnxloss.from_tf(SCC, ignore_class=2**63),
        "ignore_class is 9223372036854775808",
    ),
    (
        "ignore_class that stands for none",
        lambda: onnxloss.from_tf(SCC, ignore_class=-(2**63)),
        "ignore_class is -9223372036854775808",
    ),
    ("dtype", lambda: onnxloss.from_tf(CC, dtype="int8"), 'dtype is "int8"'),
    (
        "inner axis",
        lambda: exporting(onnxloss.from_tf(SCC, axis=1), logits=(2, 3, 4)),
        "axis is 1; expected the last",
    ),
    (
        "unbatched",
        lambda: exporting(onnxloss.from_tf(CC, from_logits=True, axis=1), logits=(3,)),
        "shape of logits",
    ),
    (
        "one class, unbatched",
        lambda: exporting(onnxloss.from_tf(SCC), logits=(1,), labels=()),
        "Keras drops the axis of one class",
    ),
    (
        "labels",
        lambda: exporting(onnxloss.from_tf(SPARSE), label_dtype="uint8"),
        'label_dtype is "uint8"',
    ),
    (
        "weights (N, 1)",
        lambda: exporting(onnxloss.from_tf(V1), sample_weights=(2, 1)),
        "shape of sample_weights is [2, 1]",
    ),
    (
        "weights that grow",
        lambda: exporting(onnxloss.from_tf(CC), logits=(1, 3), sample_weights=(4,)),
        "shape of sample_weights is [4]",
    ),
    (
        "weights twice",
        lambda: exporting(onnxloss.from_tf(V1, weights=2), sample_weights=(2,)),
        "none beside the constant ones",
    ),
    (
        "no weights",
        lambda: exporting(onnxloss.from_tf(DENSE), sample_weights=(2,)),
        "sample_weights is",
    ),
)


@pytest.mark.parametrize(
    ("call", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused_by_name(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(onnxloss.LossError) as caught:
        call()
    assert message in str(caught.value)
