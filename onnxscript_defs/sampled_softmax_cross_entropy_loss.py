# SPDX-License-Identifier: MIT
"""SampledSoftmaxCrossEntropyLoss: cross entropy of a softmax over true and sampled classes."""

from __future__ import annotations

import dataclasses

from onnx import TensorProto, helper
from onnxscript import opset19 as op
from onnxscript import script
from onnxscript.values import Opset

from .spec import (
    DOMAIN,
    INFINITY,
    LOGIT_SOFTCAP,
    LOGITS,
    LSE,
    OPSET_VERSION,
    REDUCTION,
    STASH_TYPE,
    Z_LOSS,
    Attribute,
    LossSpec,
    Port,
)

ONE_DOUBLE = helper.make_tensor("one_double", TensorProto.DOUBLE, [], [1.0])
HALF_DOUBLE = helper.make_tensor("half_double", TensorProto.DOUBLE, [], [0.5])
TWO_32 = helper.make_tensor("two_32", TensorProto.DOUBLE, [], [2.0**32])


@script(Opset(DOMAIN, OPSET_VERSION), default_opset=op)
def sampled_softmax_cross_entropy_loss(
    dloss,
    logits,
    labels,
    samples,
    probabilities,
    num_samples: int,
    num_true: int,
    remove_accidental_hits: int,
    seed: int,
    reduction: str,
    z_loss: float,
    logit_softcap: float,
    stash_type: int,
    has_samples: int,
):
    first = op.Constant(value_ints=[0])
    second = op.Constant(value_ints=[1])
    third = op.Constant(value_ints=[2])
    s_count = op.Reshape(op.Constant(value_int=num_samples), second)
    t_count = op.Reshape(op.Constant(value_int=num_true), second)
    n_count = op.Shape(labels, start=0, end=1)
    zero = op.Cast(op.Constant(value_float=0.0), to=stash_type)
    one = op.Cast(op.Constant(value_float=1.0), to=stash_type)
    two = op.Cast(op.Constant(value_float=2.0), to=stash_type)
    infinity = op.Cast(op.Constant(value_float=INFINITY), to=stash_type)
    cap = op.Cast(op.Constant(value_float=logit_softcap), to=stash_type)
    z = op.Cast(op.Constant(value_float=z_loss), to=stash_type)

    label = op.Cast(labels, to=TensorProto.INT64)
    # A negative index would count from the end; out of every range it is an error instead.
    out_of_range = op.Constant(value_int=9223372036854775807)
    y = op.Where(op.Less(label, first), out_of_range, label)

    if has_samples == 1:
        drawn_samples = op.Identity(samples)
        negative_sample = op.Less(samples, first)
        sampled = op.Expand(
            op.Where(negative_sample, out_of_range, samples), op.Concat(n_count, s_count, axis=0)
        )
        columns = op.Concat(y, sampled, axis=1)
        drawn_probabilities = op.Identity(probabilities)
    else:
        num_classes = op.Squeeze(op.Shape(logits, start=1, end=2))
        classes = op.Range(op.Constant(value_int=0), num_classes, op.Constant(value_int=1))
        v = op.Cast(classes, to=TensorProto.DOUBLE)
        one_double = op.Constant(value=ONE_DOUBLE)
        # Rounded to float32 as in Paddle, so that p is the kernel's.
        k_plus_1 = op.Cast(num_classes, to=TensorProto.DOUBLE) + one_double
        log_range = op.CastLike(op.Cast(op.Log(k_plus_1), to=TensorProto.FLOAT), v)
        v_plus_1 = v + one_double
        p = op.Log((v_plus_1 + one_double) / v_plus_1) / log_range
        if seed == 0:
            uniform = op.RandomUniformLike(v, dtype=TensorProto.DOUBLE, low=0.0, high=1.0)
        else:
            # A generator by counter, of 32 bits, so that a seed gives the same samples each time:
            # two rounds of xor-shift and multiply. No product reaches 2^63.
            bits = op.Constant(value_int=4294967295)
            start = op.Constant(value_int=seed) * op.Constant(value_int=1481765933)
            word0 = op.BitwiseAnd(classes + start, bits)
            word1 = op.BitwiseXor(word0, word0 / op.Constant(value_int=65536))
            word2 = op.BitwiseAnd(word1 * op.Constant(value_int=569420461), bits)
            word3 = op.BitwiseXor(word2, word2 / op.Constant(value_int=32768))
            word4 = op.BitwiseAnd(word3 * op.Constant(value_int=1935289751), bits)
            word5 = op.BitwiseXor(word4, word4 / op.Constant(value_int=32768))
            half = op.Constant(value=HALF_DOUBLE)
            uniform = (op.Cast(word5, to=TensorProto.DOUBLE) + half) / op.Constant(value=TWO_32)
        # Class v first arrives after an exponential time of rate p(v) if one class is drawn with
        # replacement per unit of time: the first S to arrive are distinct draws (Gumbel top-k).
        arrival = op.Neg(op.Log(uniform)) / p
        arrivals, drawn = op.TopK(arrival, s_count, axis=0, largest=0, sorted=1)
        drawn_samples = op.Identity(drawn)
        sampled = op.Expand(drawn, op.Concat(n_count, s_count, axis=0))
        columns = op.Concat(y, sampled, axis=1)
        # Each of the S came once, and p(v) times per unit of time again until the last came.
        waits = op.ReduceMax(arrivals, keepdims=1) - arrivals
        repeats = op.ReduceSum(op.Gather(p, drawn) * waits, keepdims=0)
        num_tries = op.Cast(op.Constant(value_int=num_samples), to=TensorProto.DOUBLE) + repeats
        missed = op.Exp(num_tries * op.Log(one_double - op.Gather(p, columns)))
        drawn_probabilities = op.Cast(one_double - missed, to=stash_type)

    gathered = op.Cast(op.GatherElements(logits, columns, axis=1), to=stash_type)
    if cap > zero:
        squashed = op.Tanh(gathered / cap)
        scores = cap * squashed
        slope = one - squashed * squashed
    else:
        scores = op.Identity(gathered)
        slope = op.Identity(one)
    corrected = scores - op.Log(drawn_probabilities)
    if remove_accidental_hits == 1:
        hits = op.Equal(op.Unsqueeze(y, third), op.Unsqueeze(sampled, second))
        is_hit = op.ReduceMax(op.Cast(hits, to=TensorProto.INT32), second, keepdims=0)
        columns_before = op.Concat(first, t_count, first, first, axis=0)
        removed = op.Cast(op.Pad(is_hit, columns_before), to=TensorProto.BOOL)
        x = op.Where(removed, op.Neg(infinity), corrected)
    else:
        x = op.Identity(corrected)

    x_max = op.ReduceMax(x, second, keepdims=1)
    shifted = x - x_max
    exp_shifted = op.Exp(shifted)
    sum_exp = op.ReduceSum(exp_shifted, second, keepdims=1)
    log_sum_exp = op.Log(sum_exp)
    neg_log_p = log_sum_exp - shifted
    lse_on_axis = x_max + log_sum_exp
    lse = op.Squeeze(lse_on_axis, second)
    p_column = exp_shifted / sum_exp
    true_loss = op.Slice(neg_log_p, first, t_count, second)
    cross_entropy = op.ReduceMean(true_loss, second, keepdims=0)
    if z > zero:
        position_loss = cross_entropy + z * lse * lse
    else:
        position_loss = op.Identity(cross_entropy)

    n = op.Cast(op.Squeeze(n_count), to=stash_type)
    if reduction == "none":
        loss = op.Identity(position_loss)
    else:
        loss_sum = op.ReduceSum(position_loss, keepdims=0)
        if reduction == "sum":
            loss = op.Identity(loss_sum)
        else:
            loss = loss_sum / n

    if reduction == "none":
        k = op.Unsqueeze(dloss, second)
    else:
        if reduction == "sum":
            k = op.Identity(dloss)
        else:
            k = dloss / n

    true_share = one / op.Cast(op.Constant(value_int=num_true), to=stash_type)
    true_shares = op.Expand(true_share, t_count)
    shares = op.Concat(true_shares, op.Expand(zero, s_count), axis=0)
    if z > zero:
        pull = p_column * (one + two * z * lse_on_axis)
    else:
        pull = op.Identity(p_column)
    by_column = k * (pull - shares) * slope
    nothing = op.Expand(zero, op.Shape(logits))
    gradient = op.ScatterElements(nothing, columns, by_column, axis=1, reduction="add")
    dlogits = op.CastLike(gradient, logits)
    return loss, dlogits, lse, drawn_samples, drawn_probabilities


_LARGEST = 2**31 - 1

SPEC = LossSpec(
    name="SampledSoftmaxCrossEntropyLoss",
    summary="Cross entropy of a softmax over the true classes and S sampled ones.",
    formula=r"""
y_i = labels_i: T true classes of row i      s: S distinct classes, drawn once for all rows
p(v) = log((v + 2) / (v + 1)) / log(K + 1)   the chance of class v in one draw (log-uniform)
Q(v) = S p(v)                                if none of the draws came twice (num_tries = S)
       1 - (1 - p(v))^num_tries              else: the chance of v to be among the draws
c_i  = (y_i1 .. y_iT, s_1 .. s_S)            the T + S columns of row i
g_ij = logits[i, c_ij], or cap * tanh(logits[i, c_ij] / cap)    with cap = logit_softcap > 0
x_ij = g_ij - log Q(c_ij)
       -inf where j > T and c_ij is one of y_i, if remove_accidental_hits
lse_i  = log sum_j exp(x_ij)
loss_i = -1/T sum_{j <= T} log softmax(x_i)_j + z lse_i^2        with z = z_loss
none:  loss_i        sum:  sum_i loss_i        mean:  sum_i loss_i / N

dlogits[i, v] = k_i sum_{j: c_ij = v} (softmax(x_i)_j (1 + 2 z lse_i) - 1/T [j <= T]) dg_ij/dlogits
                0 for other classes
k_i = dloss_i (none), dloss (sum), dloss / N (mean)
""".strip(),
    inputs=(
        dataclasses.replace(
            LOGITS, shape="[N, K]", doc="Unnormalised scores of K classes, frequent ones first."
        ),
        Port("labels", "Tind", "[N, T]", "The true classes of each row."),
        Port(
            "samples",
            "tensor(int64)",
            "[S] or [N, S]",
            "The samples, for all rows or for each; the loss draws them where they are left out.",
            optional=True,
        ),
        Port(
            "probabilities",
            "S",
            "[N, T + S]",
            "Q of the true classes and of the samples; given with `samples` and only then.",
            optional=True,
        ),
    ),
    attributes=(
        Attribute("num_samples", 1, "The number S of samples.", minimum=1, maximum=_LARGEST),
        Attribute("num_true", 1, "The number T of true classes.", minimum=1, maximum=_LARGEST),
        Attribute(
            "remove_accidental_hits",
            1,
            "1: a sample that is one of a row's true classes is left out of that row.",
            choices=(0, 1),
        ),
        Attribute(
            "seed",
            0,
            "Of the draws: the same samples in each call. 0: others in each.",
            minimum=0,
            maximum=2**32 - 1,
        ),
        dataclasses.replace(
            REDUCTION,
            default="none",
            doc="`none`: the loss of every row. `sum`: their sum. `mean`: their sum divided by N.",
        ),
        Z_LOSS,
        LOGIT_SOFTCAP,
        STASH_TYPE,
    ),
    edge_cases=(
        "A label or sample outside [0, K), and more samples to draw than classes, are errors.",
        "The kernel draws with std::mt19937_64(seed) as Paddle's sample_logits did, and counts "
        "num_tries. The function draws with other numbers from the same distribution, and "
        "num_tries is the number expected given the times at which its samples came.",
        "Given samples may repeat, and hit true classes; a class's gradients add up.",
        "A masked class (-inf) that is true makes the row's loss +inf; elsewhere it adds 0.",
        "A row with nan or +inf in a column, or nothing but -inf, or with Q <= 0, has a nan loss, "
        "and a nan gradient in its columns.",
        "N = 0: the mean is nan.",
    ),
    sources=(
        "Jean et al., On Using Very Large Target Vocabulary for Neural Machine Translation: "
        "https://arxiv.org/abs/1412.2007",
        "TensorFlow, tf.nn.sampled_softmax_loss: "
        "https://www.tensorflow.org/api_docs/python/tf/nn/sampled_softmax_loss",
        "Paddle 1.8, sampled_softmax_with_cross_entropy: https://www.paddlepaddle.org.cn/"
        "documentation/docs/en/1.8/api/layers/sampled_softmax_with_cross_entropy.html",
        "Kool et al., Stochastic Beams and Where to Find Them (Gumbel top-k): "
        "https://arxiv.org/abs/1903.06059",
    ),
    body=sampled_softmax_cross_entropy_loss,
    results=(
        dataclasses.replace(
            LSE,
            shape="[N]",
            doc="log sum_j exp(x_ij), over the columns of each row.",
        ),
        Port(
            "drawn_samples",
            "tensor(int64)",
            "[S], or as samples",
            "The samples of this call, as the gradient alone takes them.",
            optional=True,
        ),
        Port("drawn_probabilities", "S", "[N, T + S]", "Q of this call's columns.", optional=True),
    ),
    drawn=("samples", "probabilities"),
)
