# SPDX-License-Identifier: MIT
"""from_paddle: what Paddle refuses or gets wrong is refused, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxloss
from onnxloss import LossError, from_paddle

FUNCTION = "paddle.nn.functional.cross_entropy"
WITH_SOFTMAX = "paddle.nn.functional.softmax_with_cross_entropy"
WEIGHT = np.array([0.5, 2, 1], np.float32)


@pytest.mark.parametrize(
    "version", ["1.8", "2.12", "2.4-static", "2.5", "2.7", "4.0", "latest", "0.0.0", "3"]
)
def test_an_unknown_version_is_refused(version: str) -> None:
    with pytest.raises(LossError, match=r"paddle_version is .* expected .2.0. to .2.4., .2.6."):
        from_paddle(FUNCTION, paddle_version=version)


@pytest.mark.parametrize(
    ("settings", "logits", "labels"),
    [
        ({"label_smoothing": 0.1}, (2, 3, 3), (2, 3)),
        ({"label_smoothing": 0.1, "soft_label": True}, (2, 3, 3), (2, 3, 3)),
        ({"weight": WEIGHT, "soft_label": True}, (2, 3, 3), (2, 3, 3)),
    ],
)
def test_an_inner_axis_is_refused_where_paddle_takes_the_last(
    settings: dict[str, Any], logits: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    config = from_paddle(FUNCTION, axis=1, **settings)
    with pytest.raises(LossError, match=r"axis is 1; expected the last, 2: .*Paddle.* transpose"):
        onnxloss.export(config, logits=logits, labels=labels)
    # Of two axes 1 is the last.
    onnxloss.export(config, logits=(2, 3))


@pytest.mark.parametrize(
    ("api", "settings", "message"),
    [
        ("paddle.nn.NLLLoss", {}, "loss is .paddle.nn.NLLLoss.; expected .paddle.nn.functional"),
        (FUNCTION, {"size_average": True}, "size_average is not a setting"),
        (FUNCTION, {"return_softmax": True}, "return_softmax is not a setting"),
        (WITH_SOFTMAX, {"weight": WEIGHT}, "weight is not a setting of paddle.nn.functional.soft"),
        (FUNCTION, {"soft_label": "yes"}, "soft_label is .yes.; expected True or False"),
        (FUNCTION, {"ignore_index": None}, "ignore_index is None; expected an integer"),
        (FUNCTION, {"ignore_index": 2**63}, "ignore_index is 9223372036854775808; expected"),
        (FUNCTION, {"reduction": "MEAN"}, "reduction is .MEAN.; expected"),
        (FUNCTION, {"label_smoothing": 1.1}, r"label_smoothing is 1.1; expected a number in \[0"),
        (FUNCTION, {"label_smoothing": "0.1"}, "label_smoothing is .0.1.; expected a number"),
        (FUNCTION, {"axis": 0.5}, "axis is 0.5; expected an integer"),
        (FUNCTION, {"target": "classes"}, "target is .classes.; expected .indices. or"),
        (FUNCTION, {"target": "probabilities"}, "expected .indices. with soft_label=False"),
        (WITH_SOFTMAX, {"target": "indices", "soft_label": True}, "expected .probabilities. with"),
        (FUNCTION, {"soft_label": True, "ignore_index": 0}, "negative one with soft_label"),
        (FUNCTION, {"soft_label": True, "ignore_index": 3}, "negative one with soft_label"),
        (
            FUNCTION,
            {"label_smoothing": 0.1, "ignore_index": 1},
            "negative one with label_smoothing",
        ),
        (
            FUNCTION,
            {"soft_label": True, "ignore_index": -1, "paddle_version": "2.4"},
            "expected -100 with soft_label, where Paddle up to 2.4",
        ),
        (
            FUNCTION,
            {"ignore_index": 2**31},
            "ignore_index is 2147483648; expected an integer of 32",
        ),
        (WITH_SOFTMAX, {"ignore_index": -(2**31) - 1}, "expected an integer of 32 bits"),
        (FUNCTION, {"weight": np.ones((1, 3), np.float32)}, "shape of class_weights"),
        (FUNCTION, {"weight": np.ones(3, np.int64)}, "dtype of class_weights is .int64."),
    ],
)
def test_what_paddle_refuses_or_gets_wrong_is_refused(
    api: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(LossError, match=message):
        from_paddle(api, **settings)


def test_labels_of_a_dtype_that_paddle_has_no_kernel_for_are_refused() -> None:
    for dtype in ("uint8", "float32"):
        with pytest.raises(LossError, match="label_dtype is"):
            onnxloss.export(from_paddle(FUNCTION), logits=(2, 3), label_dtype=dtype)


def test_integers_are_no_probabilities() -> None:
    config = from_paddle(FUNCTION, label_smoothing=0.1, target="probabilities")
    onnxloss.export(config, logits=(2, 3), label_dtype="float64")
    with pytest.raises(LossError, match=r'label_dtype is "int64"; .*Paddle takes no integers'):
        onnxloss.export(config, logits=(2, 3), label_dtype="int64")


@pytest.mark.parametrize("api", [FUNCTION, WITH_SOFTMAX])
@pytest.mark.parametrize("soft", [False, True])
def test_unbatched_logits_have_one_axis(api: str, soft: bool) -> None:
    onnxloss.export(from_paddle(api, soft_label=soft, axis=0), logits=(3,))
    with pytest.raises(LossError, match=r"shape of logits is \[3\]; .*axis is 1"):
        onnxloss.export(from_paddle(api, soft_label=soft, axis=1), logits=(3,))
