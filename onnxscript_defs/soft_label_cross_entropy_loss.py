# SPDX-License-Identifier: MIT
"""SoftLabelCrossEntropyLoss: cross entropy of softmax(logits) with label probabilities."""

# ruff: noqa: F821  (onnxscript reads attribute names inside the function as values)
from __future__ import annotations

from onnxscript import script
from onnxscript import opset19 as op
from onnxscript.values import Opset

from .spec import (
    AXIS,
    CLASS_WEIGHTS,
    DOMAIN,
    LABEL_SMOOTHING,
    LABEL_SMOOTHING_LOW,
    LOGITS,
    LOSS,
    ONE,
    OPSET_VERSION,
    REDUCTION,
    STASH_TYPE,
    LossSpec,
    Port,
)


@script(Opset(DOMAIN, OPSET_VERSION), default_opset=op)
def soft_label_cross_entropy_loss(
    dloss,
    logits,
    labels,
    class_weights,
    axis: int,
    reduction: str,
    label_smoothing: float,
    label_smoothing_low: float,
    stash_type: int,
    weighted: int,
):
    class_axis = op.Reshape(op.Constant(value_int=axis), op.Constant(value_ints=[1]))
    zero = op.Cast(op.Constant(value_float=0.0), to=stash_type)
    one = op.Cast(op.Constant(value_float=1.0), to=stash_type)
    e_high = op.Cast(op.Constant(value_float=label_smoothing), to=stash_type)
    e_low = op.Cast(op.Constant(value_float=label_smoothing_low), to=stash_type)
    e = e_high + e_low
    kept = one - e

    x = op.Cast(logits, to=stash_type)
    x_max = op.ReduceMax(x, class_axis, keepdims=1)
    shifted = x - x_max
    exp_shifted = op.Exp(shifted)
    sum_exp = op.ReduceSum(exp_shifted, class_axis, keepdims=1)
    log_sum_exp = op.Log(sum_exp)
    neg_log_p = log_sum_exp - shifted
    p = exp_shifted / sum_exp

    t = op.Cast(labels, to=stash_type)
    if e > zero:
        num_classes = op.Cast(op.Gather(op.Shape(logits), class_axis), to=stash_type)
        smoothed = kept * t + e / num_classes
    else:
        smoothed = op.Identity(t)
    if weighted == 1:
        rank = op.Size(op.Shape(logits))
        after_axis = op.Constant(value_int=-1) - op.Constant(value_int=axis)
        trailing = op.Unsqueeze(op.Mod(after_axis, rank), op.Constant(value_ints=[0]))
        ones = op.ConstantOfShape(trailing, value=ONE)
        w_shape = op.Concat(op.Constant(value_ints=[-1]), ones, axis=0)
        w = op.Reshape(class_weights, w_shape)
    else:
        w = op.Identity(one)
    a = smoothed * w

    weighted_neg_log_p = a * neg_log_p
    every_loss = op.Where(a == zero, zero, weighted_neg_log_p)
    position_loss = op.ReduceSum(every_loss, class_axis, keepdims=0)
    num_positions = op.Cast(op.Size(position_loss), to=stash_type)
    if reduction == "none":
        loss = op.Identity(position_loss)
    else:
        total_loss = op.ReduceSum(position_loss, keepdims=0)
        if reduction == "sum":
            loss = op.Identity(total_loss)
        else:
            loss = total_loss / num_positions

    if reduction == "none":
        k = op.Unsqueeze(dloss, class_axis)
    else:
        if reduction == "sum":
            k = op.Identity(dloss)
        else:
            k = dloss / num_positions
    sum_a = op.ReduceSum(a, class_axis, keepdims=1)
    direction = p * sum_a - a
    gradient = k * direction
    dlogits = op.CastLike(gradient, logits)
    return loss, dlogits


SPEC = LossSpec(
    name="SoftLabelCrossEntropyLoss",
    summary="Cross entropy between softmax(logits) and label probabilities.",
    formula=r"""
t'_ic  = (1 - e) labels_ic + e / C                  with e = label_smoothing
a_ic   = w_c t'_ic
loss_i = sum_c a_ic * -log_softmax(logits)_ic
none:  loss_i        sum:  sum_i loss_i        mean:  sum_i loss_i / N,  N the number of positions

dlogits_ic = k_i (softmax(logits)_ic * sum_c a_ic - a_ic)
k_i = dloss_i (none), dloss (sum), dloss / N (mean)
""".strip(),
    inputs=(
        LOGITS,
        Port("labels", "T", "as logits", "Probability of each class; need not add up to 1."),
        CLASS_WEIGHTS,
    ),
    outputs=(LOSS,),
    attributes=(AXIS, REDUCTION, LABEL_SMOOTHING, LABEL_SMOOTHING_LOW, STASH_TYPE),
    edge_cases=(
        "No position at all: the mean is nan, the sum 0.",
        "A logit of -inf is a masked class: its gradient is -k_i a_ic; its loss is +inf unless a_ic is 0.",
        "A class whose coefficient a_ic is 0 adds 0, also where its logit is -inf.",
        "A position with nan, +inf, or nothing but -inf among its logits has a nan loss and gradient.",
    ),
    sources=(
        "PyTorch, cross_entropy with class probabilities: "
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html",
        "Hinton et al., Distilling the Knowledge in a Neural Network: https://arxiv.org/abs/1503.02531",
    ),
    body=soft_label_cross_entropy_loss,
)
