# SPDX-License-Identifier: MIT
"""SoftmaxCrossEntropyLoss: cross entropy of softmax(logits) with integer labels."""

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
    FALSE,
    FROM_LOGITS,
    INFINITY,
    LABEL_SMOOTHING,
    LABEL_SMOOTHING_LOW,
    LOGIT_SOFTCAP,
    LOGITS,
    NAN,
    NO_IGNORED_LABEL,
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
def softmax_cross_entropy_loss(
    dloss,
    logits,
    labels,
    class_weights,
    sample_weights,
    axis: int,
    ignore_index: int,
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
    nothing = op.Squeeze(nothing_on_axis, class_axis)

    label = op.Cast(labels, to=TensorProto.INT64)
    ignored_label = op.Constant(value_int=ignore_index)
    if ignored_label == op.Constant(value_int=NO_IGNORED_LABEL):
        ignored = op.ConstantOfShape(op.Shape(label), value=FALSE)
    else:
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

    if has_class_weights == 1:
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
    if has_sample_weights == 1:
        sample_weight = op.Identity(sample_weights)
        sample_weight_on_axis = op.Unsqueeze(sample_weights, class_axis)
    else:
        sample_weight = op.Identity(one)
        sample_weight_on_axis = op.Identity(one)
    # u weighs the terms of the classes, s the position.
    if class_weighting == "class":
        u = op.Identity(w)
        u_mean = op.Identity(w_mean)
        u_y = op.Identity(w_y)
        u_y_on_axis = op.Identity(w_y_on_axis)
        s = op.Identity(sample_weight)
        s_on_axis = op.Identity(sample_weight_on_axis)
    else:
        u = op.Identity(one)
        u_mean = op.Identity(one)
        u_y = op.Identity(one)
        u_y_on_axis = op.Identity(one)
        if e > zero:
            s = sample_weight * (kept * w_y + e * w_mean)
            s_on_axis = sample_weight_on_axis * (kept * w_y_on_axis + e * w_mean)
        else:
            s = sample_weight * w_y
            s_on_axis = sample_weight_on_axis * w_y_on_axis

    u_neg_log_p_y = neg_log_p_y * u_y
    target_loss = op.Where(u_y == zero, nothing, u_neg_log_p_y)
    if e > zero:
        u_neg_log_p = neg_log_p * u
        every_loss = op.Where(u == zero, nothing_on_axis, u_neg_log_p)
        uniform_loss = op.ReduceMean(every_loss, class_axis, keepdims=0)
        if e == one:
            smoothed_loss = op.Identity(uniform_loss)
        else:
            smoothed_loss = kept * target_loss + e * uniform_loss
    else:
        smoothed_loss = op.Identity(target_loss)
    if z > zero:
        plain_loss = smoothed_loss + z * lse * lse
    else:
        plain_loss = op.Identity(smoothed_loss)
    # A weight of 0 takes away an infinite loss, but not a nan, as in the frameworks.
    weighted_loss = plain_loss * s
    unweighted_loss = op.Where(op.IsNaN(plain_loss), plain_loss, zero)
    counted_loss = op.Where(s == zero, unweighted_loss, weighted_loss)
    position_loss = op.Where(valid, counted_loss, zero)

    if mean_over == "weights":
        shares = s * u_y
        total = op.ReduceSum(op.Where(valid, shares, zero), keepdims=0)
    else:
        if mean_over == "positions":
            total = op.Cast(op.Size(labels), to=stash_type)
        else:
            if mean_over == "valid":
                total = op.ReduceSum(op.Where(valid, one, zero), keepdims=0)
            else:
                nonzero = op.And(valid, op.Not(sample_weight == zero))
                total = op.ReduceSum(op.Where(nonzero, one, zero), keepdims=0)
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
    if e > zero:
        num_classes = op.Cast(op.Gather(op.Shape(logits), class_axis), to=stash_type)
        a_y = u_y_on_axis * kept
        sum_a = a_y + e * u_mean
        uniform_a = u * (e / num_classes)
    else:
        a_y = op.Identity(u_y_on_axis)
        sum_a = op.Identity(u_y_on_axis)
        uniform_a = op.Identity(zero)
    if z > zero:
        p_share = sum_a + two * z * lse_on_axis
    else:
        p_share = op.Identity(sum_a)
    # Where no softmax joins the classes there is no p: the uniform part keeps the logits' shape.
    if joins:
        p_a = p * p_share - uniform_a
    else:
        p_a = op.Expand(op.Neg(uniform_a), op.Shape(logits))
    minus_a_y = op.Where(valid_on_axis, op.Neg(a_y), zero)
    direction = op.ScatterElements(p_a, y_on_axis, minus_a_y, axis=axis, reduction="add")
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
        by_logits = plain * s_on_axis
    else:
        unweighted = op.Where(op.IsNaN(plain), plain, zero)
        by_logits = op.Where(s_on_axis == zero, unweighted, plain * s_on_axis)
    scaled = k * by_logits
    gradient = op.Where(valid_on_axis, scaled, zero)
    dlogits = op.CastLike(gradient, logits)
    return loss, dlogits, lse


SPEC = LossSpec(
    name="SoftmaxCrossEntropyLoss",
    summary="Cross entropy between softmax(logits) and integer labels.",
    formula=r"""
x      = logits, or cap * tanh(logits / cap)        with cap = logit_softcap > 0
lse_i  = log sum_c exp(x_ic)                        0 with from_logits = 0
-lp_ic = lse_i - x_ic                               -log(x_ic) with from_logits = 0
normalize "before_clip":  -lp_ic = -log(r_ic),         r_ic = clip(x_ic / sum_j x_ij)
          "after_clip":   -lp_ic = lse_i - log(r_ic),  r_ic = clip(x_ic), lse_i = log sum_j r_ij
v_i    = 1 if labels_i != ignore_index else 0
t_ic   = (1 - e) [c = y] + e / C                    with y = labels_i, e = label_smoothing
class_weighting "class":     a_ic = w_c t_ic,  u_i = 1
                "position":  a_ic = t_ic,      u_i = sum_c w_c t_ic
loss_i = v_i s_i u_i (sum_c a_ic * -lp_ic + z lse_i^2)       with z = z_loss
none:  loss_i        sum:  sum_i loss_i        mean:  sum_i loss_i / D
D: mean_over "weights": sum_i v_i s_i w_y (u_i for w_y if "position")
             "positions": N   "valid": sum_i v_i   "nonzero": sum_i v_i [s_i != 0]

dlogits_ic = v_i k_i s_i u_i (p_ic (sum_c a_ic + 2 z lse_i) - a_ic) dx_ic/dlogits_ic
p_ic = softmax(x)_ic;  k_i = dloss_i (none), dloss (sum), dloss / D (mean)
""".strip(),
    inputs=(
        LOGITS,
        Port(
            "labels", "Tind", "logits without axis", "The class of each position, or ignore_index."
        ),
        CLASS_WEIGHTS,
        SAMPLE_WEIGHTS,
    ),
    attributes=(
        AXIS,
        Attribute(
            "ignore_index",
            -100,
            "Positions with this label have no loss and no gradient. -2^63: no label is ignored.",
        ),
        REDUCTION,
        Attribute(
            "mean_over",
            "weights",
            "What D adds up: the `weights` of the labelled classes (PyTorch), all `positions`, the "
            "`valid` ones, or those whose sample weight is `nonzero` (TensorFlow).",
            choices=("weights", "positions", "valid", "nonzero"),
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
        "A label outside [0, C) that is not ignore_index is an error; the label -2^63 always is.",
        "An ignored position has loss 0 and gradient 0, whatever its logits hold.",
        "D = 0, as when all positions are ignored: the mean is what `empty_mean` says, the sum 0, "
        "the gradient of ignored positions 0.",
        "A logit of -inf is a masked class: its gradient is 0; as the target its loss is +inf.",
        "A class whose coefficient a_ic is 0 adds 0, also where its logit is -inf.",
        UNDEFINED,
        OF_PROBABILITIES,
    ),
    sources=(
        "ONNX, SoftmaxCrossEntropyLoss-13: "
        "https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html",
        "PyTorch, cross_entropy: "
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html",
        "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, section 7: "
        "https://arxiv.org/abs/1512.00567",
        "Chowdhery et al., PaLM, section 5 (z-loss): https://arxiv.org/abs/2204.02311",
        "Gemma Team, Gemma 2, section 2 (logit soft-capping): https://arxiv.org/abs/2408.00118",
    ),
    body=softmax_cross_entropy_loss,
)
