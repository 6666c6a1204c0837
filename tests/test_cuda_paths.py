# SPDX-License-Identifier: MIT
"""Which CUDA kernel runs what, and each of them on shapes of its own; all on the host."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests import cuda_calls, reference
from tests.cases import DTYPES, HARD, SOFT
from tests.models import stash_dtype
from tests.tolerance import assert_kernel_alone

BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
TYPES = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}

# A row's vectors of 16 bytes decide: one number beside each limit of the residences.
RESIDENCES = {4: 0, 5: 3, 128: 3, 129: 4, 256: 4, 257: 5, 512: 5, 513: 6}
RESIDENCES |= {1024: 6, 1025: 7, 2048: 7}
OF_MANY_ROWS = {11: 1, 32: 1, 33: 2, 128: 2, 129: 4}
CLUSTERS = {2049: (7, 2), 4096: (7, 2), 4097: (7, 4), 16384: (7, 8), 16385: (7, 16)}
CLUSTERS |= {32768: (7, 16), 32769: (8, 16), 65536: (8, 16)}
PORTABLE_CLUSTERS = {16384: (7, 8), 16385: (8, 8), 32768: (8, 8)}


def plan(vectors: int, dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    call = {"type": TYPES[dtype], "outer": 512, "inner": 1, "from_logits": 1, "logits": 256}
    call |= {"classes": vectors * 16 // BYTES[dtype], "dlogits": 256}
    return cuda_calls.plan_of(**{**call, **fields})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vectors", "residence"), RESIDENCES.items())
def test_rows_with_a_gradient_stay_on_chip(vectors: int, residence: int, dtype: str) -> None:
    made = plan(vectors, dtype)
    assert (made["path"], made["residence"], made["cluster"]) == ("resident", residence, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vectors", "residence"), OF_MANY_ROWS.items())
def test_many_rows_share_warps(vectors: int, residence: int, dtype: str) -> None:
    assert plan(vectors, dtype, outer=4096)["residence"] == residence


def test_a_thread_has_a_row_of_few_classes() -> None:
    many = {"outer": 4096}
    for dtype in ("float32", "float16", "bfloat16"):
        assert plan(10, dtype, **many)["path"] == "packed"
        assert plan(1, dtype, **many, classes=1)["path"] == "packed"
    most = {"dtype": "float32", "classes": 40, **many}
    assert plan(1, **most)["blocks"] == 32
    assert plan(1, **{**most, "outer": 4097})["blocks"] == 33
    for other in (
        {"classes": 41},
        {"outer": 4095},
        {"dtype": "float64"},
        {"logits": 264, "dlogits": 264},
    ):
        assert plan(1, **{**most, **other})["path"] == "resident"
    assert plan(1, **most, softcap=9.0)["path"] == "strided"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vectors", "expected"), CLUSTERS.items())
def test_longer_rows_take_clusters(vectors: int, expected: tuple[int, int], dtype: str) -> None:
    made = plan(vectors, dtype)
    assert (made["path"], made["residence"], made["cluster"]) == ("resident", *expected)
    assert made["blocks"] == 512 * expected[1]


@pytest.mark.parametrize(("vectors", "expected"), PORTABLE_CLUSTERS.items())
def test_clusters_of_chips_that_have_smaller_ones(vectors: int, expected: tuple[int, int]) -> None:
    made = plan(vectors, largest_cluster=8)
    assert (made["path"], made["residence"], made["cluster"]) == ("resident", *expected)


def test_a_large_block_where_there_are_no_clusters() -> None:
    made = plan(4096, largest_cluster=1)
    assert (made["path"], made["residence"], made["cluster"]) == ("resident", 8, 1)


@pytest.mark.parametrize(("largest", "vectors"), [(1, 4096), (8, 32768), (16, 65536)])
def test_what_no_cluster_holds_is_streamed(largest: int, vectors: int) -> None:
    assert plan(vectors, "bfloat16", largest_cluster=largest)["path"] == "resident"
    assert plan(vectors + 1, "bfloat16", largest_cluster=largest)["path"] == "streamed"


def test_a_loss_alone_is_streamed_where_rows_are_long_and_many() -> None:
    assert plan(1025, dlogits=0)["path"] == "streamed"
    assert plan(1024, dlogits=0)["path"] == "resident"
    assert plan(1025, dlogits=0, outer=64)["path"] == "resident"


def test_arrays_on_different_sides_of_a_boundary_go_one_by_one() -> None:
    for vectors in (10, 100_000):
        assert plan(vectors, "bfloat16", logits=258, dlogits=258)["path"] != "strided"
        assert plan(vectors, "bfloat16", dlogits=258)["path"] == "strided"
        labels = {"label_kind": cuda_calls.PROBABILITIES, "labels": 258}
        assert plan(vectors, "bfloat16", **labels)["path"] == "strided"
    # Indices are read one by one anyway.
    assert plan(10, "bfloat16", labels=264)["path"] == "resident"


def test_neighbours_of_16_bits_share_a_thread() -> None:
    for dtype, across in (("bfloat16", 2), ("float16", 2), ("float32", 1), ("float64", 1)):
        assert plan(10, dtype, inner=6)["across"] == across
    for other in (
        {"inner": 7},
        {"logits": 258, "dlogits": 258},
        {"dlogits": 258},
        {"softcap": 9.0},
    ):
        assert plan(10, "bfloat16", **{"inner": 6, **other})["across"] == 1


@pytest.mark.parametrize(("classes", "lanes"), [(24, 1), (25, 2), (384, 16), (385, 32), (9999, 32)])
def test_threads_of_a_strided_row(classes: int, lanes: int) -> None:
    made = plan(1, inner=6, classes=classes)
    assert (made["path"], made["class_lanes"]) == ("strided", lanes)


def test_other_axes_and_options() -> None:
    assert plan(10, inner=3)["path"] == "strided"
    assert plan(10, from_logits=0)["path"] == "probabilities"
    assert plan(10, softcap=30.0)["path"] == "strided"
    assert plan(1000, softcap=30.0)["path"] == "streamed"
    assert plan(10, outer=0)["path"] == "nothing"


# Beside the residences' limits for 16-bit and 32-bit rows, none a multiple of a vector; 70001
# 32-bit classes take a cluster of 16 where there are clusters.
SHAPES = {
    "four lanes": ((11, 13), 1, "resident"),
    "a warp": ((5, 101), 1, "resident"),
    "a warp, longer": ((3, 499), 1, "resident"),
    "a warp, longest": ((3, 999), 1, "resident"),
    "a short block": ((2, 2043), 1, "resident"),
    "a block": ((2, 4001), 1, "resident"),
    "a block, longer": ((2, 7001), 1, "resident"),
    "a cluster": ((2, 40003), 1, "resident"),
    "a large cluster": ((1, 70001), 1, "resident"),
    "strided": ((2, 37, 5), 1, "strided"),
    "strided pairs": ((3, 21, 6), 1, "strided"),
    "strided pairs that share threads": ((2, 37, 6), 1, "strided"),
    "strided, long": ((2, 700, 3), 1, "strided"),
    "strided pairs, long": ((2, 1100, 4), 1, "strided"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.125, "z_loss": 0.0078125},
}


def draw(loss: str, shape: tuple[int, ...], axis: int, dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(shape))
    moved = (*np.delete(shape, axis), shape[axis])
    stash = stash_dtype(dtype)
    hard = rng.integers(0, shape[axis], moved[:-1])
    soft = np.moveaxis(rng.dirichlet(np.ones(shape[axis]), moved[:-1]), -1, axis)
    return {
        "logits": (3 * rng.standard_normal(shape)).astype(DTYPES[dtype]),
        "labels": hard if loss == HARD else soft.astype(DTYPES[dtype], order="C"),
        "dloss": rng.uniform(0.25, 2, moved[:-1]).astype(stash),
        "class_weights": rng.uniform(0.5, 2, shape[axis]).astype(stash),
        "sample_weights": rng.uniform(0.5, 2, moved[:-1]).astype(stash),
    }


def assert_right(
    outputs: dict[str, np.ndarray], loss: str, arrays: dict[str, np.ndarray], **settings: Any
) -> None:
    """Against the reference, whose inputs are those of the operator."""
    expected = getattr(reference, loss)(**arrays, **settings)
    wanted = dict(zip(("loss", "dlogits"), expected, strict=True))
    for name, values in outputs.items():
        assert_kernel_alone(values, wanted[name], name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [HARD, SOFT])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_path(name: str, setting: str, loss: str, dtype: str) -> None:
    """At any alignment, with clusters and without."""
    shape, axis, path = SHAPES[name]
    arrays = draw(loss, shape, axis, dtype)
    settings = {**SETTINGS[setting], "axis": axis, "reduction": "none"}
    soft = loss == SOFT
    if dtype != "float64":
        assert cuda_calls.path_of(settings, arrays, soft=soft) == path
    for shift, largest in ((0, 16), (1, 1)):
        outputs = cuda_calls.run(
            settings,
            arrays,
            soft=soft,
            outputs=("loss", "dlogits"),
            shift=shift,
            largest_cluster=largest,
        )
        assert_right(outputs, loss, arrays, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [HARD, SOFT])
@pytest.mark.parametrize(("vectors", "residence"), [(20, 1), (40, 2)])
def test_many_rows(vectors: int, residence: int, loss: str, dtype: str) -> None:
    """With edges on both sides of the vectors."""
    assert plan(vectors, dtype, outer=4097)["residence"] == residence
    arrays = draw(loss, (4097, vectors * 16 // BYTES[dtype] + 1), 1, dtype)
    settings = {**SETTINGS["smoothed"], "axis": 1, "reduction": "none"}
    outputs = cuda_calls.run(
        settings, arrays, soft=loss == SOFT, outputs=("loss", "dlogits"), shift=1
    )
    assert_right(outputs, loss, arrays, **settings)


# Of 16-bit types, rows of 16 and 48 classes lie apart in a tile, those of float32 that have 8 and
# 40; and a thread has the room for 24 at once.
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("loss", [HARD, SOFT])
@pytest.mark.parametrize("classes", [1, 8, 10, 16, 27, 40, 48, 79])
def test_many_rows_of_few_classes(classes: int, loss: str, dtype: str) -> None:
    """Beside rows that do not count, are bad or have no softmax."""
    arrays = draw(loss, (4099, classes), 1, dtype)
    arrays["dloss"] /= 4  # or of so many gradients one, of large factors, is off by more
    settings = {**SETTINGS["smoothed"], "axis": 1, "reduction": "none"}
    soft = loss == SOFT
    bad, nan = 131, 262
    if not soft:
        settings["ignore_index"] = -7
        arrays["labels"][::5] = -7
    outputs = ("loss", "dlogits")
    good = cuda_calls.run(settings, arrays, soft=soft, outputs=outputs)
    assert_right(good, loss, arrays, **settings)
    if not soft:
        arrays["labels"][bad] = classes
    arrays["logits"][nan, classes // 2] = np.nan
    if BYTES[dtype] * classes <= 160:
        assert cuda_calls.path_of(settings, arrays, soft=soft) == "packed"
    for name, values in cuda_calls.run(settings, arrays, soft=soft, outputs=outputs).items():
        for row in [nan] if soft else [bad, nan]:
            assert np.isnan(values[row].astype(np.float64)).all()
            values[row] = good[name][row]
        np.testing.assert_array_equal(values, good[name])


# Of a row of numbers below 4: what stands at its first, some inner and its last place.
PEAKS = {
    "one": {"inner": 9},
    "first and last": {"first": 9, "last": 9},
    "ties": {"first": 9, "inner": 9, "last": 9},
    "masked": {"first": -np.inf, "inner": -np.inf, "last": -np.inf},
    "masked, and a tie": {"first": -np.inf, "inner": 9, "last": 9},
    "masked by finite numbers": {"first": "lowest", "inner": "lowest", "last": "lowest"},
}
NONE = {
    "nan first": {"first": np.nan},
    "nan last": {"last": np.nan},
    "nan beside the greatest": {"inner": np.nan, "last": 9},
    "inf": {"inner": np.inf},
    "inf and -inf": {"first": -np.inf, "last": np.inf},
}


EACH_KIND = ("four lanes", "a warp, longer", "a block", "a cluster", "strided", "strided pairs")


def put(row: np.ndarray, marks: dict[str, Any]) -> None:
    places = {"first": [0], "inner": [row.size // 2, row.size // 2 + 1], "last": [row.size - 1]}
    for name, value in marks.items():
        row[places[name]] = ml_dtypes.finfo(row.dtype).min if value == "lowest" else value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loss", "smoothing"), [(HARD, 0.0), (HARD, 0.125), (SOFT, 0.0)])
@pytest.mark.parametrize("marks", PEAKS)
@pytest.mark.parametrize("name", EACH_KIND)
def test_greatest_elements_and_masked_ones(
    name: str, marks: str, loss: str, smoothing: float, dtype: str
) -> None:
    """One greatest is left out of a sum, wherever it is; the others and what is masked are not."""
    shape, axis, _ = SHAPES[name]
    arrays = draw(loss, shape, axis, dtype)
    del arrays["class_weights"]  # so that one coefficient is every class's
    arrays["logits"] = np.minimum(arrays["logits"], DTYPES[dtype].type(4))
    rows = np.moveaxis(arrays["logits"], axis, -1)
    for position in np.ndindex(rows.shape[:-1]):
        put(rows[position], PEAKS[marks])
    if loss == HARD:
        arrays["labels"][:] = 1  # none of these places
    else:
        labels = np.moveaxis(arrays["labels"], axis, -1)
        labels[rows.astype(np.float64) < -1e4] = 0
    settings = {"axis": axis, "reduction": "none", "label_smoothing": smoothing}
    outputs = cuda_calls.run(settings, arrays, soft=loss == SOFT, outputs=("loss", "dlogits"))
    assert_right(outputs, loss, arrays, **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("marks", NONE)
@pytest.mark.parametrize("name", EACH_KIND)
def test_rows_without_a_softmax_are_nan(name: str, marks: str, dtype: str) -> None:
    shape, axis, _ = SHAPES[name]
    arrays = draw(HARD, shape, axis, dtype)
    settings = {"axis": axis, "reduction": "none"}
    good = cuda_calls.run(settings, arrays)
    rows = np.moveaxis(arrays["logits"], axis, -1)
    last = tuple(n - 1 for n in rows.shape[:-1])
    put(rows[last], NONE[marks])
    outputs = cuda_calls.run(settings, arrays)
    for output, value in outputs.items():
        found, expected = value, good[output]
        if output == "dlogits":
            found, expected = (np.moveaxis(x, axis, -1) for x in (found, expected))
        assert np.isnan(found[last].astype(np.float64)).all()
        found[last] = expected[last]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [HARD, SOFT])
@pytest.mark.parametrize("classes", [4096, 9001])
def test_streamed_with_a_cap(classes: int, loss: str, dtype: str) -> None:
    """What fills up a vector must not be lifted to -cap."""
    arrays = draw(loss, (2, classes), 1, dtype)
    settings = {"axis": 1, "reduction": "none", "logit_softcap": 4.0, "label_smoothing": 0.125}
    soft = loss == SOFT
    assert cuda_calls.path_of(settings, arrays, soft=soft) == "streamed"
    outputs = cuda_calls.run(settings, arrays, soft=soft, outputs=("loss", "dlogits"))
    assert_right(outputs, loss, arrays, **settings)


@pytest.mark.parametrize("loss", [HARD, SOFT])
def test_streamed_on_every_chip(loss: str) -> None:
    """Rows too long for any cluster; and those of a loss alone, which no chip keeps."""
    settings = {"axis": 1, "reduction": "none", "label_smoothing": 0.125}
    soft = loss == SOFT
    arrays = draw(loss, (1, 263001), 1, "float32")
    assert cuda_calls.path_of(settings, arrays, soft=soft) == "streamed"
    outputs = cuda_calls.run(settings, arrays, soft=soft, outputs=("loss", "dlogits"))
    assert_right(outputs, loss, arrays, **settings)
    arrays = draw(loss, (260, 4101), 1, "float32")
    assert plan(1026, outer=260, dlogits=0)["path"] == "streamed"
    outputs = cuda_calls.run(settings, arrays, soft=soft, outputs=("loss",))
    assert_right(outputs, loss, arrays, **settings)


@pytest.mark.parametrize("positions", [8193, 70000])
def test_sums_over_several_blocks(positions: int) -> None:
    arrays = draw(HARD, (positions, 2), 1, "float64")
    arrays["dloss"] = np.asarray(1.5)
    settings = {"axis": 1, "reduction": "mean", "label_smoothing": 0.125}
    outputs = cuda_calls.run(settings, arrays, outputs=("loss", "dlogits"))
    assert_right(outputs, HARD, arrays, **settings)


@pytest.mark.parametrize("shape", [(9, 5), (3, 600), (2, 40003), (2, 40, 5)])
@pytest.mark.parametrize("label", [-1, 10**6, 2**40])
def test_a_bad_label_makes_its_row_nan_and_no_other(label: int, shape: tuple[int, ...]) -> None:
    arrays = draw(HARD, shape, 1, "float32")
    settings = {"axis": 1, "reduction": "none"}
    good = cuda_calls.run(settings, arrays)
    bad = (1,) * (len(shape) - 1)
    arrays["labels"][bad] = label
    outputs = cuda_calls.run(settings, arrays)
    row = (bad[0], slice(None), *bad[1:])
    for name, place in (("loss", bad), ("dlogits", row)):
        assert np.isnan(outputs[name][place]).all()
        outputs[name][place] = good[name][place]
        np.testing.assert_array_equal(outputs[name], good[name])
    # The row's lse is its logits'.
    np.testing.assert_array_equal(outputs["lse"], good["lse"])


def test_a_bad_label_takes_no_part_in_a_mean_s_gradient() -> None:
    arrays = draw(HARD, (6, 10), 1, "float32")
    arrays["dloss"] = np.ones((), np.float32)
    settings = {"axis": 1, "reduction": "mean", "ignore_index": 3}
    arrays["labels"][2] = 3
    ignored = cuda_calls.run(settings, arrays, outputs=("loss", "dlogits"))
    arrays["labels"][2] = 77
    outputs = cuda_calls.run(settings, arrays, outputs=("loss", "dlogits"))
    assert np.isnan(outputs["loss"]) and np.isnan(outputs["dlogits"][2]).all()
    np.testing.assert_array_equal(outputs["dlogits"][3:], ignored["dlogits"][3:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 12), (3, 700), (2, 30, 5)])
@pytest.mark.parametrize(
    "settings",
    [
        {"from_logits": 1},
        {"from_logits": 0},
        {"from_logits": 0, "normalize": "before_clip", "epsilon": 0.03125},
        {"from_logits": 0, "normalize": "after_clip", "epsilon": 0.03125},
    ],
    ids=["logits", "probabilities", "before_clip", "after_clip"],
)
def test_gradient_by_labels(settings: dict[str, Any], shape: tuple[int, ...], dtype: str) -> None:
    arrays = draw(SOFT, shape, 1, dtype)
    if not settings["from_logits"]:
        arrays["logits"] = np.abs(arrays["logits"]) + DTYPES[dtype].type(0.125)
    settings = {**settings, "axis": 1, "reduction": "none", "label_smoothing": 0.25}
    result = cuda_calls.run(settings, arrays, soft=True, outputs=("dlabels",))["dlabels"]
    weights = {name: arrays[name] for name in ("class_weights", "sample_weights")}
    expected = reference.label_gradient(arrays["logits"], arrays["dloss"], **weights, **settings)
    assert_kernel_alone(result, expected, "dlabels")
