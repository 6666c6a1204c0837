# SPDX-License-Identifier: MIT
"""SoftmaxCrossEntropyLoss: cross entropy of softmax(logits) with integer labels."""

# ruff: noqa: F821  (onnxscript reads attribute names inside the function as values)
from __future__ import annotations

from onnx import TensorProto
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
    NAN,
    ONE,
    OPSET_VERSION,
    REDUCTION,
    STASH_TYPE,
    Attribute,
    LossSpec,
    Port,
)


@script(Opset(DOMAIN, OPSET_VERSION), default_opset=op)
def softmax_cross_entropy_loss(
    dloss,
    logits,
    labels,
    class_weights,
    axis: int,
    ignore_index: int,
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

    label = op.Cast(labels, to=TensorProto.INT64)
    ignored_label = op.Constant(value_int=ignore_index)
    ignored = op.Equal(label, ignored_label)
    valid = op.Not(ignored)
    # A negative index would count from the end; out of every range it is an error instead.
    first_class = op.Constant(value_int=0)
    out_of_range = op.Constant(value_int=9223372036854775807)
    negative = op.Less(label, first_class)
    checked_label = op.Where(negative, out_of_range, label)
    y = op.Where(ignored, first_class, checked_label)
    y_on_axis = op.Unsqueeze(y, class_axis)
    valid_on_axis = op.Unsqueeze(valid, class_axis)
    picked = op.GatherElements(neg_log_p, y_on_axis, axis=axis)
    neg_log_p_y = op.Squeeze(picked, class_axis)

    if weighted == 1:
        rank = op.Size(op.Shape(logits))
        after_axis = op.Constant(value_int=-1) - op.Constant(value_int=axis)
        trailing = op.Unsqueeze(op.Mod(after_axis, rank), op.Constant(value_ints=[0]))
        ones = op.ConstantOfShape(trailing, value=ONE)
        w_shape = op.Concat(op.Constant(value_ints=[-1]), ones, axis=0)
        w = op.Reshape(class_weights, w_shape)
        w_mean = op.ReduceMean(class_weights, keepdims=0)
        w_y = op.Gather(class_weights, y)
        w_y_on_axis = op.Unsqueeze(w_y, class_axis)
    else:
        w = op.Identity(one)
        w_mean = op.Identity(one)
        w_y = op.Identity(one)
        w_y_on_axis = op.Identity(one)

    weighted_target_loss = neg_log_p_y * w_y
    target_loss = op.Where(w_y == zero, zero, weighted_target_loss)
    if e > zero:
        weighted_neg_log_p = neg_log_p * w
        every_loss = op.Where(w == zero, zero, weighted_neg_log_p)
        uniform_loss = op.ReduceMean(every_loss, class_axis, keepdims=0)
        if e == one:
            smoothed_loss = op.Identity(uniform_loss)
        else:
            smoothed_loss = kept * target_loss + e * uniform_loss
    else:
        smoothed_loss = op.Identity(target_loss)
    position_loss = op.Where(valid, smoothed_loss, zero)

    valid_weights = op.Where(valid, w_y, zero)
    valid_weight = op.ReduceSum(valid_weights, keepdims=0)
    # PyTorch divides the target's share and the smoothing apart: 0 / 0 makes both nan.
    nan = op.Cast(op.Constant(value_float=NAN), to=stash_type)
    denominator = op.Where(valid_weight == zero, nan, valid_weight)
    if reduction == "none":
        loss = op.Identity(position_loss)
    else:
        total_loss = op.ReduceSum(position_loss, keepdims=0)
        if reduction == "sum":
            loss = op.Identity(total_loss)
        else:
            loss = total_loss / denominator

    if reduction == "none":
        k = op.Unsqueeze(dloss, class_axis)
    else:
        if reduction == "sum":
            k = op.Identity(dloss)
        else:
            k = dloss / denominator
    if e > zero:
        num_classes = op.Cast(op.Gather(op.Shape(logits), class_axis), to=stash_type)
        a_y = w_y_on_axis * kept
        sum_a = a_y + e * w_mean
        uniform_a = w * (e / num_classes)
        p_a = p * sum_a - uniform_a
    else:
        a_y = op.Identity(w_y_on_axis)
        p_a = p * w_y_on_axis
    minus_a_y = op.Where(valid_on_axis, op.Neg(a_y), zero)
    direction = op.ScatterElements(p_a, y_on_axis, minus_a_y, axis=axis, reduction="add")
    scaled = k * direction
    gradient = op.Where(valid_on_axis, scaled, zero)
    dlogits = op.CastLike(gradient, logits)
    return loss, dlogits


SPEC = LossSpec(
    name="SoftmaxCrossEntropyLoss",
    summary="Cross entropy between softmax(logits) and integer labels.",
    formula=r"""
v_i    = 1 if labels_i != ignore_index else 0
a_ic   = (1 - e) w_y [c = y] + (e / C) w_c          with y = labels_i, e = label_smoothing
loss_i = v_i * sum_c a_ic * -log_softmax(logits)_ic
none:  loss_i        sum:  sum_i loss_i        mean:  sum_i loss_i / D,  D = sum_i v_i w_y, nan if 0

dlogits_ic = v_i k_i (softmax(logits)_ic * sum_c a_ic - a_ic)
k_i = dloss_i (none), dloss (sum), dloss / D (mean)
""".strip(),
    inputs=(
        LOGITS,
        Port(
            "labels", "Tind", "logits without axis", "The class of each position, or ignore_index."
        ),
        CLASS_WEIGHTS,
    ),
    outputs=(LOSS,),
    attributes=(
        AXIS,
        Attribute("ignore_index", -100, "Positions with this label have no loss and no gradient."),
        REDUCTION,
        LABEL_SMOOTHING,
        LABEL_SMOOTHING_LOW,
        STASH_TYPE,
    ),
    edge_cases=(
        "A label outside [0, C) that is not ignore_index is an error.",
        "An ignored position has loss 0 and gradient 0, whatever its logits hold.",
        "All positions ignored, or none at all: the mean is nan, the sum 0, the gradient 0.",
        "All weights of the hit classes 0: the mean is nan, and so is its gradient.",
        "A logit of -inf is a masked class: its gradient is 0; as the target its loss is +inf.",
        "A class whose coefficient a_ic is 0 adds 0, also where its logit is -inf.",
        "A position with nan, +inf, or nothing but -inf among its logits has a nan loss and gradient.",
    ),
    sources=(
        "ONNX, SoftmaxCrossEntropyLoss-13: https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html",
        "PyTorch, cross_entropy: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html",
        "Szegedy et al., Rethinking the Inception Architecture, section 7: https://arxiv.org/abs/1512.00567",
    ),
    body=softmax_cross_entropy_loss,
)
