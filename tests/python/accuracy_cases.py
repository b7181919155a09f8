"""The cases of semantics.md, "Where the trouble was for others", and of its rules of exactness: one row each."""

from dataclasses import dataclass
from typing import Callable

import numpy as np

import accuracy_lossd as lossd
import accuracy_peers as peers
from accuracy_truth import Batch, Refusal

INF, NAN = np.inf, np.nan
PYTORCH = "PyTorch 1.13"
WIDENED = "PyTorch 1.13 after .float() (no float16 on a CPU)"


def naive(whose):
    return "naive formula of " + whose


@dataclass(frozen=True)
class Case:
    name: str
    issues: str  # "project number, ...": where it was reported; or the rule of semantics.md
    input: str
    batch: Callable[[], Batch]
    why: str
    peer: Callable = peers.pytorch
    peer_name: str = PYTORCH
    ask: Callable = lossd.ask
    truth: object = None  # a Refusal; by name, values that are known; None: what accuracy_truth.py computes


def f32(*rows):
    return np.array(rows, np.float32)


def ints(*targets, dtype=np.int64):
    return np.array(targets, dtype)


def normal(shape, seed, dtype=np.float32, scale=3):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(dtype)


def classes(size, num_classes, seed):
    return np.random.default_rng(seed).integers(num_classes, size=size)


def tokens(num_ignored=0, rows=32, seed=11):
    """A batch of a language model: 32 tokens, the first of them ignored."""
    targets = classes(rows, 50, seed)
    targets[:num_ignored] = -100
    return Batch(normal((rows, 50), seed), targets)


def patterned(rows, num_classes, low, high, dtype="float16", **options):
    """Many rows of 16 kinds: the target's logit around `low`, the others' around `high`."""
    random = np.random.default_rng(5)
    kinds = random.uniform(high - 0.5, high, (16, num_classes))
    kinds[:, 0] = random.uniform(low - 0.5, low, 16)
    logits = (kinds.astype(np.float16) if dtype == "float16" else peers.bfloat16(kinds))[np.arange(rows) % 16]
    return Batch(logits, np.zeros(rows, np.int64), dtype=dtype, **options)


def image(batch, shape):
    """(N, C) as (n, C, d...), with `shape` the n, d...."""
    logits = np.moveaxis(batch.logits.reshape(*shape, batch.logits.shape[1]), -1, 1)
    return Batch(np.ascontiguousarray(logits), batch.targets.reshape(shape), dtype=batch.dtype, loss=batch.loss)


def confident(dtype="float32", p=(0.9, 0.99, 0.999, 0.9999), num_classes=1000):
    """Rows whose target has probability p."""
    logits = np.zeros((len(p), num_classes), np.float32)
    logits[:, 7] = np.log(np.array(p) / (1 - np.array(p)) * (num_classes - 1))
    logits = peers.bfloat16(logits) if dtype == "bfloat16" else logits.astype(dtype)
    return Batch(logits, np.full(len(p), 7), dtype=dtype, reduction="none", asks=("logits_gradient",))


def gaps():
    logits = np.zeros((100, 2), np.float32)
    logits[:, 0] = np.arange(1, 101)
    return Batch(logits, np.zeros(100, np.int64), reduction="none", asks=("loss",))


def one_finite():
    logits = np.full((1, 100_000), -INF, np.float32)
    logits[0, 50_000] = 10
    return Batch(logits, ints(50_000))


def candidates(num_candidates, duplicates):
    """A vocabulary of 1,000, of which a few tokens share the mass; with duplicates, some are named twice."""
    random = np.random.default_rng(6)
    mass = random.dirichlet(np.ones(num_candidates), size=4).astype(np.float32)
    chosen = np.stack([random.permutation(1000)[:num_candidates] for _ in range(4)])
    if duplicates:
        chosen[:, 1::2] = chosen[:, ::2]
    return Batch(normal((4, 1000), 6), chosen, target_probabilities=mass)


def smoothed(**options):
    """pytorch 69339's own input."""
    return Batch(f32([1, 2], [3, .4]), ints(-100, 1), label_smoothing=0.1, **options)


def upstream(batch, g):
    return Batch(batch.logits, batch.targets, reduction="none", upstream_gradient=np.array(g, np.float32))


def dense(row, q, **options):
    return Batch(f32(row), f32(q), **options)


def of_type(dtype):
    return lambda: Batch(normal((6, 10), 8), classes(6, 10, 8).astype(dtype))


SUMS = naive("PyTorch's nll_loss on a GPU (float16 sums; no float16 on a CPU)")
LIGER_NONE = naive("Liger (one g for all rows)")
MANY = (86 * 2047, 50_000)  # pytorch 111484: over 2^32 elements
HEAD = (256_000, 12_288)  # apple/ml-cross-entropy 37: over 2^31
WRAPS = (1 << 32, 1 << 32)  # over 2^64


def nothing():
    """For requests that are not made of a Batch."""


CASES = [
    # ---- denominators, weights, smoothing
    Case("every element ignored", "pytorch 70348", "rand(10, 5), every target -100",
         lambda: Batch(normal((10, 5), 1), np.full(10, -100)),
         "the mean of nothing is NaN, the gradient 0; `summary.weight_sum` 0 says why"),
    Case("weights of a batch of one", "pytorch 50528", "randn(1, 10), one weight a class",
         lambda: Batch(normal((1, 10), 2), ints(3), class_weights=np.linspace(0.1, 2, 10, dtype=np.float32)),
         "the denominator is the sum of the weights; `normalizer` sets another one"),
    Case("mean of weighted losses", "pytorch 8062", "[[-100, 100]] twice, targets 0 and 1, weights 20 and 10",
         lambda: Batch(f32([-100, 100], [-100, 100]), ints(0, 1), class_weights=f32(20, 10)),
         "4000 / 30: the sum of the weighted losses over that of their weights"),
    Case("weights and label smoothing", "pytorch 104776", "randn(8, 5), weights 0.5..4, smoothing 0.1",
         lambda: Batch(normal((8, 5), 3), classes(8, 5, 3), class_weights=f32(.5, 1, 2, 3, 4), label_smoothing=0.1),
         "both terms are weighted, over one denominator"),
    Case("weights, smoothing, ignored", "pytorch 69339", "[[1, 2], [3, 0.4]], targets -100 and 1, weights 0.2 and 0.3",
         lambda: smoothed(class_weights=f32(.2, .3)), "an exception in PyTorch 1.10"),
    Case("weights, smoothing, ignore_index -1", "pytorch 72056", "randn(10, 2), two targets -1, weights 1 and 16",
         lambda: Batch(normal((10, 2), 4, scale=0.3), ints(0, -1, 0, 0, 0, 0, 0, 0, -1, 0), ignore_index=-1,
                       class_weights=f32(1, 16), label_smoothing=0.1), "an exception in PyTorch 1.10"),
    Case("smoothing of ignored rows", "pytorch 73205", "[[1, 2], [3, 0.4]], targets -100 and 1, smoothing 0.1",
         smoothed, "ignored rows entered this term in PyTorch 1.10"),
    # ---- values that are not finite
    Case("ignored row of -inf", "pytorch 11551", "[[-inf] * 5, randn(5)], targets -100 and 2",
         lambda: Batch(np.concatenate([np.full((1, 5), -INF, np.float32), normal((1, 5), 7)]), ints(-100, 2)),
         "an ignored row is not read"),
    Case("-inf before the first finite logit", "flash-attention 1930", "100,000 classes, all -inf but number 50,000",
         one_finite, "sums are relative to a finite number, whatever a row begins with", peers.differentiated(peers.tiled),
         naive("flash-attention (running maximum of tiles)")),
    Case("0 * -inf in the loss", "optax 896", "x = [-inf, 0, 0], q = [0, 1, 0]",
         lambda: dense([-INF, 0, 0], [0, 1, 0]), "0 ln 0 is 0", peers.differentiated(peers.dot_with_log_softmax),
         naive("optax (labels * log_softmax)")),
    Case("0 * -inf, PyTorch's own", "optax 896", "x = [-inf, 0, 0], q = [0, 1, 0]",
         lambda: dense([-INF, 0, 0], [0, 1, 0]), "0 ln 0 is 0"),
    Case("0 * -inf in the labels' derivative", "optax 1762", "x = [-inf, 0, 0], q = [0, 1, 0], tangent 0",
         lambda: dense([-INF, 0, 0], [0, 1, 0], reduction="sum", upstream_gradient=np.zeros((), np.float32),
                       asks=("targets_gradient",)),
         "0 times an infinite slope is 0", peers.zero_tangent_of_labels, naive("optax (tangent * log_softmax)")),
    # ---- 64-bit indices
    Case("more than 2^32 elements", "pytorch 111484", "float16 logits of shape (176042, 50000), contents missing",
         nothing, "the product is formed in 64 bits and compared: 17,604,200,000 bytes are missing",
         peers.int32_offset(MANY), naive("PyTorch's CUDA kernel (32-bit offsets)"), lossd.ask_of_shape(MANY),
         Refusal("17604200000")),
    Case("more than 2^31 elements", "apple/ml-cross-entropy 37",
         "float16 logits of shape (256000, 12288), contents missing", nothing,
         "the product is formed in 64 bits and compared: 6,291,456,000 bytes are missing",
         peers.int32_offset(HEAD), naive("cut-cross-entropy (32-bit offsets)"), lossd.ask_of_shape(HEAD),
         Refusal("6291456000")),
    # ---- sums in low precision
    Case("float16, 20,500 losses of 10", "pytorch 85791", "float16 logits (20, 4, 1025)",
         lambda: image(patterned(20_500, 4, 0, 10), (20, 1025)), "sums are in double", peers.half_sums, SUMS),
    Case("float16, 70,000 log-probabilities", "pytorch 29429", "float16 log-probabilities (7, 3, 100, 100)",
         lambda: image(patterned(70_000, 3, -1, 0, loss="negative_log_likelihood"), (7, 100, 100)),
         "sums are in double, counts in integers", peers.half_sums, SUMS),
    Case("bfloat16, 70,000 log-probabilities", "pytorch 61523", "bfloat16 log-probabilities (70000, 3)",
         lambda: patterned(70_000, 3, -1, 0, "bfloat16", loss="negative_log_likelihood"),
         "the loss is float32, its sum in double"),
    # ---- offsets and confident rows
    Case("offset 1e8", "pytorch 11752", "x = [1e8, 1e8], target 1", lambda: Batch(f32([1e8, 1e8]), ints(1)),
         "ln d - (x_y - m) has no large terms; 0 in PyTorch 0.4"),
    Case("offset 1e6", "mlx 4188", "x = [1e6 + 2, 1e6 - 1], target 0",
         lambda: Batch(f32([1e6 + 2, 1e6 - 1]), ints(0)), "lse is not formed where it would be rounded",
         peers.differentiated(peers.shifted_back), naive("mlx (lse - x_y)")),
    Case("confident row", "pytorch 113708", "x = [16.94, 0], target 0",
         lambda: Batch(f32([1 - np.log(np.finfo(np.float32).eps), 0]), ints(0)), "log1p of the sum over the others"),
    Case("true class's gradient", "Liger 1329", "bfloat16, 1,000 classes, p_y = 0.9..0.9999",
         lambda: confident("bfloat16"), "-(sum of the others' p), rounded once", peers.read_modify_write,
         naive("Liger 1268 (softmax rounded to bfloat16, then - 1)")),
    Case("true class's gradient, PyTorch's own", "Liger 1329", "bfloat16, 1,000 classes, p_y = 0.9..0.9999",
         lambda: confident("bfloat16"), "-(sum of the others' p), rounded once"),
    # ---- reduction none
    Case("g of ignored first rows", "Liger 678", "32 tokens, the first 5 ignored, g = 0 there and 1/27 elsewhere",
         lambda: upstream(tokens(5), [0] * 5 + [1 / 27] * 27), "each row has its own g; g_0 = 0", peers.first_upstream,
         LIGER_NONE),
    Case("g of a weight mask", "Liger 968", "8 tokens, g = 0, 0.5, 1, ...",
         lambda: upstream(tokens(rows=8), np.arange(8) / 2), "each row has its own g", peers.first_upstream,
         LIGER_NONE),
    Case("g of any sign", "Liger 1298", "32 tokens, g normal",
         lambda: upstream(tokens(seed=12), normal(32, 12)), "each row has its own g", peers.first_upstream, LIGER_NONE),
    Case("second loss of the same logits", "Liger 272", "32 tokens, asked twice",
         lambda: Batch(tokens().logits, tokens().targets, asks=("loss",)), "a request is never written to",
         peers.gradient_over_logits, naive("Liger (gradient written over the logits)"), lossd.ask_twice),
    # ---- micro-batches
    Case("micro-batch means, added", "Liger 802", "32 tokens, 5 ignored, in micro-batches of 16 and 16",
         lambda: tokens(5), "`normalizer` is the whole batch's count", peers.micro_batches([16, 16], 1),
         naive("Liger (num_items_in_batch not used)"), lossd.ask_in_chunks([16, 16])),
    Case("mean of micro-batch means", "Liger 1082, trl 5890", "32 tokens, 5 ignored, in micro-batches of 6 and 26",
         lambda: tokens(5), "`normalizer` is the whole batch's count", peers.micro_batches([6, 26], 1 / 2),
         naive("trl with Liger (the micro-batch's own mask)"), lossd.ask_in_chunks([6, 26])),
    Case("count of another window", "trl 6024", "32 tokens of 64 generated, 2 steps of 4",
         tokens, "`normalizer` is the count of what is added up",
         peers.micro_batches([16, 16], count=64), naive("trl (num_items_in_batch of the generation)"),
         lossd.ask_in_chunks([16, 16])),
    Case("reduction mean in each pass", "fla 539", "32 tokens, 5 ignored, in micro-batches of 8",
         lambda: tokens(5), "`normalizer` is the whole batch's count", peers.micro_batches([8] * 4, 1 / 4),
         naive("fla (mean of means)"), lossd.ask_in_chunks([8] * 4)),
    # ---- targets and shapes
    Case("targets far out of range", "pytorch 66872", "rand(500, 6), targets in [-32768, 32768)",
         lambda: Batch(normal((500, 6), 9), np.random.default_rng(9).integers(-32768, 32768, 500)),
         "refused, with position and value; silent on a GPU in PyTorch 1.9", truth=Refusal("targets[0] = -5142")),
    Case("target -4, ignore_index -1", "pytorch 12670", "randn(3, 5), targets 1, 2, -4",
         lambda: Batch(normal((3, 5), 10), ints(1, 2, -4), ignore_index=-1, reduction="none"),
         "refused, with position and value", truth=Refusal("targets[2] = -4")),
    Case("int32 targets", "pytorch 45540", "randn(6, 10)", of_type(np.int32), "every integer type is taken"),
    Case("int8 targets", "pytorch 59765", "randn(6, 10)", of_type(np.int8), "every integer type is taken"),
    Case("uint8 targets", "pytorch 59765", "randn(6, 10)", of_type(np.uint8), "every integer type is taken"),
    Case("no classes", "pytorch 73165", "rand(5, 0), probabilities",
         lambda: Batch(np.zeros((5, 0), np.float32), np.zeros((5, 0), np.float32)),
         "refused: no distribution is over nothing; PyTorch crashed in 2022, now it means NaN",
         truth=Refusal("logits.shape", or_nan=True)),
    Case("no elements, no classes", "pytorch 77895", "float64 of shape (0, 0, 9, 15, 0)",
         lambda: Batch(np.zeros((0, 0, 9, 15, 0)), np.zeros((0, 0, 9, 15, 0)), dtype="float64"),
         "refused: no distribution is over nothing; PyTorch crashed in 2022, now it means NaN",
         truth=Refusal("logits.shape", or_nan=True)),
    Case("no elements", "pytorch 77895", "float64 of shape (0, 3, 9, 15, 0)",
         lambda: Batch(np.zeros((0, 3, 9, 15, 0)), np.zeros((0, 9, 15, 0), np.int64), dtype="float64"),
         "the mean of nothing is NaN"),
    Case("21 candidate tokens", "tinker-cookbook 703", "randn(4, 1000), mass on 21 classes",
         lambda: candidates(21, False), "no dense target; exp of a rounded ln p loses digits", peers.pytorch_scattered,
         PYTORCH + ", a dense target filled by scatter_"),
    Case("64 candidates, each named twice", "tinker-cookbook 703", "randn(4, 1000), mass on 32 classes",
         lambda: candidates(64, True), "duplicates add up", peers.pytorch_scattered,
         PYTORCH + ", a dense target filled by scatter_"),
    # ---- rules of exactness
    Case("offset 3e38", "rule 1", "x = [3e38, 3e38], target 0", lambda: Batch(f32([3e38, 3e38]), ints(0)),
         "ln d - (x_y - m) has no large terms", peers.differentiated(peers.shifted_back), "naive formula lse - x_y"),
    Case("gaps 1..100", "rule 2", "x = [gap, 0], target 0, 100 rows", gaps, "log1p of the sum over the others"),
    Case("true class's gradient at a gap of 30", "rule 3", "x = [30, 0], target 0",
         lambda: Batch(f32([30, 0]), ints(0), asks=("logits_gradient",)), "-(sum of the others' p), never p_y - 1"),
    Case("gap 1000", "rule 4", "x = [1000, 0], target 1", lambda: Batch(f32([1000, 0]), ints(1)),
         "the log of an underflowed softmax is never taken", peers.differentiated(peers.log_of_softmax),
         "naive formula ln softmax(x)"),
    Case("float16, 70,000 rows", "rule 5", "float16 logits (70000, 3)", lambda: patterned(70_000, 3, 0, 10),
         "widened on load, sums in double", peers.pytorch_after_float, WIDENED),
    Case("bfloat16, 70,000 rows", "rule 5", "bfloat16 logits (70000, 3)",
         lambda: patterned(70_000, 3, 0, 10, "bfloat16"),
         "widened on load, sums in double, forward and backward of the same numbers"),
    Case("bits by place in the batch", "rule 6", "randn(33, 507): reversed, in chunks of 7, one by one",
         lambda: Batch(normal((33, 507), 13), classes(33, 507, 13), reduction="none"), "a row's bits are its own",
         peers.pytorch_rearranged("rows"), ask=lossd.ask_rearranged("rows"), truth={"differing_numbers": 0}),
    Case("bits by layout", "rule 6", "randn(33, 507) against its transpose, class axis 1",
         lambda: Batch(normal((33, 507), 13), classes(33, 507, 13), reduction="none"), "a row's bits are its own",
         peers.pytorch_rearranged("transposed"), ask=lossd.ask_rearranged("transposed"),
         truth={"differing_numbers": 0}),
    Case("more than 2^64 elements", "rule 7", "float16 logits of shape (2^32, 2^32), contents missing",
         nothing, "the product is checked for overflow before anything is allocated", peers.int32_offset(WRAPS),
         naive("a kernel with 32-bit offsets"), lossd.ask_of_shape(WRAPS), Refusal("4294967296")),
]
