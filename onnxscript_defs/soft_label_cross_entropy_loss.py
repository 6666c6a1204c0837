# SPDX-License-Identifier: MIT
"""SoftLabelCrossEntropyLoss: cross entropy of softmax(logits) with label probabilities."""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import opset19 as op
from onnxscript import script
from onnxscript.values import Opset

from .spec import (
    AXIS,
    CLASS_WEIGHTING,
    CLASS_WEIGHTS,
    DOMAIN,
    EMPTY_MEAN,
    EPSILON,
    EPSILON_LOW,
    FROM_LOGITS,
    INFINITY,
    LABEL_SMOOTHING,
    LABEL_SMOOTHING_LOW,
    LOGIT_SOFTCAP,
    LOGITS,
    NAN,
    NORMALIZE,
    OF_PROBABILITIES,
    ONE,
    OPSET_VERSION,
    REDUCTION,
    SAMPLE_WEIGHTS,
    STASH_TYPE,
    UNDEFINED,
    Z_LOSS,
    Attribute,
    LossSpec,
    Port,
)


@script(Opset(DOMAIN, OPSET_VERSION), default_opset=op)
def soft_label_cross_entropy_loss(
    dloss,
    logits,
    labels,
    class_weights,
    sample_weights,
    axis: int,
    reduction: str,
    mean_over: str,
    empty_mean: str,
    class_weighting: str,
    label_smoothing: float,
    label_smoothing_low: float,
    from_logits: int,
    normalize: str,
    epsilon: float,
    epsilon_low: float,
    z_loss: float,
    logit_softcap: float,
    stash_type: int,
    has_class_weights: int,
    has_sample_weights: int,
):
    class_axis = op.Reshape(op.Constant(value_int=axis), op.Constant(value_ints=[1]))
    zero = op.Cast(op.Constant(value_float=0.0), to=stash_type)
    one = op.Cast(op.Constant(value_float=1.0), to=stash_type)
    two = op.Cast(op.Constant(value_float=2.0), to=stash_type)
    nan = op.Cast(op.Constant(value_float=NAN), to=stash_type)
    infinity = op.Cast(op.Constant(value_float=INFINITY), to=stash_type)
    e_high = op.Cast(op.Constant(value_float=label_smoothing), to=stash_type)
    e_low = op.Cast(op.Constant(value_float=label_smoothing_low), to=stash_type)
    e = e_high + e_low
    kept = one - e
    cap = op.Cast(op.Constant(value_float=logit_softcap), to=stash_type)
    z = op.Cast(op.Constant(value_float=z_loss), to=stash_type)

    # x is what the softmax takes, slope its derivative by the logits.
    stashed = op.Cast(logits, to=stash_type)
    if cap > zero:
        squashed = op.Tanh(stashed / cap)
        x = cap * squashed
        slope = one - squashed * squashed
    else:
        x = op.Identity(stashed)
        slope = op.Identity(one)

    # r is x, or what is made of it as probabilities.
    if normalize == "none":
        sum_x = op.Identity(one)
        quotient = op.Identity(x)
        outside = op.Less(x, op.Neg(infinity))
        r = op.Identity(x)
    else:
        wide = op.Cast(op.Constant(value_float=epsilon), to=TensorProto.DOUBLE)
        bound = wide + op.Cast(op.Constant(value_float=epsilon_low), to=TensorProto.DOUBLE)
        lowest = op.Cast(bound, to=stash_type)
        wide_one = op.Cast(op.Constant(value_float=1.0), to=TensorProto.DOUBLE)
        highest = op.Cast(wide_one - bound, to=stash_type)
        if normalize == "before_clip":
            sum_x = op.ReduceSum(x, class_axis, keepdims=1)
            quotient = x / sum_x
        else:
            sum_x = op.Identity(one)
            quotient = op.Identity(x)
        # Clip would take nan for a bound in some runtimes; a comparison with nan is false in all.
        too_low = quotient < lowest
        too_high = quotient > highest
        outside = op.Or(too_low, too_high)
        at_most = op.Where(too_high, highest, quotient)
        r = op.Where(too_low, lowest, at_most)
    if normalize == "after_clip":
        scores = op.Log(r)
    else:
        scores = op.Identity(r)

    # Whether a softmax joins the classes of a position.
    joins = op.Or(from_logits == 1, normalize == "after_clip")
    if joins:
        x_max = op.ReduceMax(scores, class_axis, keepdims=1)
        shifted = scores - x_max
        exp_shifted = op.Exp(shifted)
        sum_exp = op.ReduceSum(exp_shifted, class_axis, keepdims=1)
        log_sum_exp = op.Log(sum_exp)
        neg_log_p = log_sum_exp - shifted
        lse_on_axis = x_max + log_sum_exp
        p = exp_shifted / sum_exp
        # 0, but nan where the position has no softmax: what a term without weight adds.
        nothing_on_axis = log_sum_exp * zero
    else:
        neg_log_p = op.Neg(op.Log(scores))
        one_class = op.Shape(op.ReduceMax(scores, class_axis, keepdims=1))
        lse_on_axis = op.Cast(op.ConstantOfShape(one_class), to=stash_type)
        p = op.Identity(zero)
        nothing_on_axis = op.Identity(lse_on_axis)
    lse = op.Squeeze(lse_on_axis, class_axis)

    given = op.Cast(labels, to=stash_type)
    if e > zero:
        num_classes = op.Cast(op.Gather(op.Shape(logits), class_axis), to=stash_type)
        t = kept * given + e / num_classes
    else:
        t = op.Identity(given)
    if has_class_weights == 1:
        rank = op.Size(op.Shape(logits))
        after_axis = op.Constant(value_int=-1) - op.Constant(value_int=axis)
        trailing = op.Unsqueeze(op.Mod(after_axis, rank), op.Constant(value_ints=[0]))
        ones = op.ConstantOfShape(trailing, value=ONE)
        w_shape = op.Concat(op.Constant(value_ints=[-1]), ones, axis=0)
        w = op.Reshape(class_weights, w_shape)
    else:
        w = op.Identity(one)
    if has_sample_weights == 1:
        sample_weight = op.Unsqueeze(sample_weights, class_axis)
    else:
        sample_weight = op.Identity(one)
    # a weighs the terms of the classes, s the position.
    weighted_t = t * w
    if class_weighting == "class":
        a = op.Identity(weighted_t)
        s = op.Identity(sample_weight)
    else:
        a = op.Identity(t)
        s = sample_weight * op.ReduceSum(weighted_t, class_axis, keepdims=1)

    a_neg_log_p = a * neg_log_p
    every_loss = op.Where(a == zero, nothing_on_axis, a_neg_log_p)
    cross_entropy = op.ReduceSum(every_loss, class_axis, keepdims=1)
    if z > zero:
        plain_loss = cross_entropy + z * lse_on_axis * lse_on_axis
    else:
        plain_loss = op.Identity(cross_entropy)
    # A weight of 0 takes away an infinite loss, but not a nan, as in the frameworks.
    weighted_loss = plain_loss * s
    unweighted_loss = op.Where(op.IsNaN(plain_loss), plain_loss, zero)
    counted_loss = op.Where(s == zero, unweighted_loss, weighted_loss)
    position_loss = op.Squeeze(counted_loss, class_axis)

    num_positions = op.Cast(op.Size(position_loss), to=stash_type)
    if mean_over == "positions":
        total = op.Identity(num_positions)
    else:
        if mean_over == "weights":
            total = op.ReduceSum(op.Expand(s, op.Shape(cross_entropy)), keepdims=0)
        else:
            nonzero = op.Where(sample_weight == zero, zero, one)
            total = op.ReduceSum(op.Expand(nonzero, op.Shape(cross_entropy)), keepdims=0)
    if empty_mean == "nan":
        denominator = op.Where(total == zero, nan, total)
    else:
        if empty_mean == "sum":
            denominator = op.Where(total == zero, one, total)
        else:
            denominator = op.Where(total == zero, infinity, total)

    if reduction == "none":
        loss = op.Identity(position_loss)
    else:
        loss_sum = op.ReduceSum(position_loss, keepdims=0)
        if reduction == "sum":
            loss = op.Identity(loss_sum)
        else:
            loss = loss_sum / denominator

    if reduction == "none":
        k = op.Unsqueeze(dloss, class_axis)
    else:
        if reduction == "sum":
            k = op.Identity(dloss)
        else:
            k = dloss / denominator
    sum_a = op.ReduceSum(a, class_axis, keepdims=1)
    if z > zero:
        p_share = sum_a + two * z * lse_on_axis
    else:
        p_share = op.Identity(sum_a)
    direction = p * p_share - a
    if from_logits == 1:
        plain = direction * slope
    else:
        by_r = op.Where(direction == zero, zero, direction * slope / r)
        by_quotient = op.Where(outside, zero, by_r)
        if normalize == "before_clip":
            share = op.ReduceSum(by_quotient * quotient, class_axis, keepdims=1)
            plain = (by_quotient - share) / sum_x
        else:
            plain = op.Identity(by_quotient)
    if from_logits == 1:
        by_logits = plain * s
    else:
        unweighted = op.Where(op.IsNaN(plain), plain, zero)
        by_logits = op.Where(s == zero, unweighted, plain * s)
    gradient = k * by_logits
    dlogits = op.CastLike(gradient, logits)
    if class_weighting == "class":
        by_labels = (k * sample_weight * kept) * (w * neg_log_p)
    else:
        by_labels = neg_log_p * nan
    dlabels = op.CastLike(by_labels, labels)
    return loss, dlogits, lse, dlabels


SPEC = LossSpec(
    name="SoftLabelCrossEntropyLoss",
    summary="Cross entropy between softmax(logits) and label probabilities.",
    formula=r"""
x      = logits, or cap * tanh(logits / cap)        with cap = logit_softcap > 0
lse_i  = log sum_c exp(x_ic)                        0 with from_logits = 0
-lp_ic = lse_i - x_ic                               -log(x_ic) with from_logits = 0
normalize "before_clip":  -lp_ic = -log(r_ic),         r_ic = clip(x_ic / sum_j x_ij)
          "after_clip":   -lp_ic = lse_i - log(r_ic),  r_ic = clip(x_ic), lse_i = log sum_j r_ij
t_ic   = (1 - e) labels_ic + e / C                  with e = label_smoothing
class_weighting "class":     a_ic = w_c t_ic,  u_i = 1
                "position":  a_ic = t_ic,      u_i = sum_c w_c t_ic
loss_i = s_i u_i (sum_c a_ic * -lp_ic + z lse_i^2)           with z = z_loss
none:  loss_i        sum:  sum_i loss_i        mean:  sum_i loss_i / D
D: mean_over "positions": N   "weights": sum_i s_i u_i   "nonzero": sum_i [s_i != 0]

dlogits_ic = k_i s_i u_i (p_ic (sum_c a_ic + 2 z lse_i) - a_ic) dx_ic/dlogits_ic
p_ic = softmax(x)_ic;  k_i = dloss_i (none), dloss (sum), dloss / D (mean)
dlabels_ic = k_i s_i (1 - e) w_c * -lp_ic           class_weighting "class"
""".strip(),
    inputs=(
        LOGITS,
        Port("labels", "T", "as logits", "Probability of each class; need not add up to 1."),
        CLASS_WEIGHTS,
        SAMPLE_WEIGHTS,
    ),
    attributes=(
        AXIS,
        REDUCTION,
        Attribute(
            "mean_over",
            "positions",
            "What D adds up: all `positions` (PyTorch), the `weights` s_i u_i, or the positions "
            "whose sample weight is `nonzero` (TensorFlow).",
            choices=("positions", "weights", "nonzero"),
        ),
        EMPTY_MEAN,
        CLASS_WEIGHTING,
        LABEL_SMOOTHING,
        LABEL_SMOOTHING_LOW,
        FROM_LOGITS,
        NORMALIZE,
        EPSILON,
        EPSILON_LOW,
        Z_LOSS,
        LOGIT_SOFTCAP,
        STASH_TYPE,
    ),
    edge_cases=(
        "D = 0, as when there is no position: the mean is what `empty_mean` says, the sum 0.",
        "A logit of -inf is a masked class: its gradient is that of p_ic = 0; its loss is +inf "
        "unless a_ic is 0.",
        "A class whose coefficient a_ic is 0 adds 0, also where its logit is -inf.",
        UNDEFINED,
        OF_PROBABILITIES,
        'dlabels with class_weighting "position", where a label weighs the whole position, is an '
        "error in the kernel and nan in the function.",
    ),
    sources=(
        "PyTorch, cross_entropy with class probabilities: "
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html",
        "Hinton et al., Distilling the Knowledge in a Neural Network: "
        "https://arxiv.org/abs/1503.02531",
    ),
    body=soft_label_cross_entropy_loss,
    gradients=(
        Port("dlabels", "T", "as labels", "Gradient of sum(dloss * loss) by `labels`.", True),
    ),
)
