"""Decoding on a CPU: one new token a row, the whole step in one compiled function that all threads run together.

    embed | ( norm, q k v | rotate, keep, attend | out, add | norm, gate up | down, add ) x layers | norm, head

At every bar the stage before it must be done. A stage is cut into shares, which the threads take one after the other,
each reading its rows of a matrix from end to end: the time it takes to read the weights is the time that a token
takes. Nobody waits for a thread that has no share, so one that comes late, or that the machine gives no core, holds up
the others only within a share. Weights may be float32, a half precision or int8; everything else is float32.

Compiled by numba when first called, for a machine and a type of weights, and kept on disk.

Shapes: B rows, D d_model, H query heads, K key/value heads, E head_dim, F d_ffn, V vocabulary, L layers, S slots,
C positions of a slot, T threads.
"""

import math
import platform
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# sums may be reordered, which is what vectors need; what is no number stays none
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_SPINS = 2_000  # before a waiting thread offers its core to others
_SHARE = 16_384  # weights
_LIKELY = np.float32(2**-12)  # of the likeliest token's chance: where a nucleus is looked for first
_COLDEST = 1e-30  # a temperature whose inverse is a number
_PART = 256  # chances that are summed at a time


# these stand beside what is compiled with them: what is kept of it is thrown away when this file changes, no other one
class Matrices(NamedTuple):
    """Something of every matrix that tokens are multiplied with, arrays: [L, ...], of the head without L."""

    qkv: Any
    out: Any
    gate_up: Any
    down: Any
    head: Any


class Rooms(NamedTuple):
    """What stands between the products, float32, for the largest number of rows."""

    x: Any  # [B, D]
    qkv: Any  # [B, (H + 2 K) E]
    mixed: Any  # [B, H E]
    gated: Any  # [B, F]
    up: Any  # [B, F]
    normed: Any  # [T, B, D]
    scores: Any  # [T, C]
    query: Any  # [T, E]
    wide: Any  # [T, 2, max(D, H E, F)]


_OPTIONS = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
_compiled = njit(**_OPTIONS)


def _kept(function):
    """Compile a function when it is first called, and keep what comes of it where there is a place for it."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither this folder nor the user's can be written to
        return _compiled(function)


@intrinsic
def _widened(typing_context, value):
    """Return a stored number as float32; uint16 are the bits of float16, int16 those of bfloat16."""

    def build(context, builder, signature, arguments):
        (stored,), kind, wide = arguments, signature.args[0], ir.FloatType()
        if kind == types.float32:
            return stored
        if kind == types.uint16:
            return builder.fpext(builder.bitcast(stored, ir.HalfType()), wide)
        if kind == types.int16:
            bits = builder.zext(stored, ir.IntType(32))
            return builder.bitcast(builder.shl(bits, ir.Constant(ir.IntType(32), 16)), wide)
        return builder.sitofp(stored, wide)

    return types.float32(value), build


@intrinsic
def _of_bits(typing_context, value):
    """Return the float32 that has these bits; where it is not negative, more bits are a larger number."""

    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


@intrinsic
def _fetch_add(typing_context, counters, place, amount):
    """Add to an int64 of an array, and return what was there, as one step for all threads."""

    def build(context, builder, signature, arguments):
        counters, place, amount = arguments
        array = context.make_array(signature.args[0])(context, builder, counters)
        return builder.atomic_rmw("add", builder.gep(array.data, [place]), amount, "seq_cst")

    return types.int64(counters, types.intp, types.int64), build


@intrinsic
def _peek(typing_context, counters, place):
    """Return an int64 of an array as it is now, and with it all that was written before it got there."""

    def build(context, builder, signature, arguments):
        counters, place = arguments
        array = context.make_array(signature.args[0])(context, builder, counters)
        return builder.load_atomic(builder.gep(array.data, [place]), "acquire", 8)

    return types.int64(counters, types.intp), build


@intrinsic
def _pause(typing_context):
    """Tell the core that this thread is only waiting."""

    def build(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def _offer_core(typing_context):
    """Let other threads run."""

    def build(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        name = "SwitchToThread" if platform.system() == "Windows" else "sched_yield"
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), build


@_compiled
def _take(meeting, stage, shares):
    """Return the number of a share of a stage that nobody has, or -1."""
    share = _fetch_add(meeting, 2 * stage, 1)
    return share if share < shares else -1


@_compiled
def _hand_in(meeting, stage):
    """Say that a share is done."""
    _fetch_add(meeting, 2 * stage + 1, 1)


@_compiled
def _next(meeting, stage, shares):
    """Hand in a share and take another one."""
    _hand_in(meeting, stage)
    return _take(meeting, stage, shares)


@_compiled
def _await(meeting, stage, shares):
    """Wait until all shares of a stage are done."""
    spins = 0
    while _peek(meeting, 2 * stage + 1) < shares:
        spins += 1
        if spins < _SPINS:
            _pause()
        else:
            _offer_core()


@_compiled
def _num_shares(outputs, inputs, threads):
    """Return into how many shares a product is cut: so many that a thread that comes late is not waited for."""
    return max(1, min(outputs // 8, outputs * inputs // _SHARE)) if threads > 1 else 1


@_compiled
def _border_of(share, shares, outputs):
    """Return where a share of the outputs begins; even, so that as many threads as there may be make the same tiles."""
    return outputs if share == shares else outputs * share // shares // 2 * 2


@_compiled
def _exp(x):
    """Return e^x of a float32 up to 88, in steps that vectors can take; coefficients of S. L. Moshier's Cephes."""
    x = max(x, np.float32(-87))
    twos = np.floor(x * np.float32(1.44269504) + np.float32(0.5))  # float32; math.floor would make it all float64
    r = x - twos * np.float32(0.693147181)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    return (y * r * r + r + np.float32(1)) * _of_bits(np.int32((np.int32(twos) + np.int32(127)) << np.int32(23)))


@_compiled
def _dot(row, x):
    total = np.float32(0)
    for i in range(len(x)):
        total += _widened(row[i]) * x[i]
    return total


@_compiled
def _multiply(matrix, scales, x, y, wide, begin, end, adds):
    """y[:, begin:end] = or += x matrix[begin:end]^T.

    Four rows and more are multiplied in tiles of four rows and two outputs, whose weights are read and widened first:
    memory gives one row of a matrix from end to end sooner than two at a time.
    """
    rows, inputs = x.shape
    fours = rows // 4 * 4
    o = begin
    while o + 2 <= end and fours:
        for j in range(2):
            for i in range(inputs):
                wide[j, i] = _widened(matrix[o + j, i])
        for b in range(0, fours, 4):
            _multiply_tile(wide, x, y, b, o, scales, adds)
        for b in range(fours, rows):
            _put(y, b, o, scales[o], adds, _dot(wide[0], x[b]))
            _put(y, b, o + 1, scales[o + 1], adds, _dot(wide[1], x[b]))
        o += 2
    while o < end:
        for b in range(rows):
            _put(y, b, o, scales[o], adds, _dot(matrix[o], x[b]))
        o += 1


@_compiled
def _multiply_tile(wide, x, y, b, o, scales, adds):
    x0, x1, x2, x3, w0, w1 = x[b], x[b + 1], x[b + 2], x[b + 3], wide[0], wide[1]
    s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = np.float32(0)
    for i in range(len(x0)):
        s00 += w0[i] * x0[i]
        s01 += w1[i] * x0[i]
        s10 += w0[i] * x1[i]
        s11 += w1[i] * x1[i]
        s20 += w0[i] * x2[i]
        s21 += w1[i] * x2[i]
        s30 += w0[i] * x3[i]
        s31 += w1[i] * x3[i]
    for n, total in enumerate((s00, s10, s20, s30)):
        _put(y, b + n, o, scales[o], adds, total)
    for n, total in enumerate((s01, s11, s21, s31)):
        _put(y, b + n, o + 1, scales[o + 1], adds, total)


@_compiled
def _put(y, b, o, scale, adds, total):
    y[b, o] = y[b, o] + total * scale if adds else total * scale


@_compiled
def _norm(x, y, eps):
    for b in range(len(x)):
        squares = np.float32(0)
        for i in range(x.shape[1]):
            squares += x[b, i] * x[b, i]
        scale = np.float32(1 / math.sqrt(squares / np.float32(x.shape[1]) + eps))
        for i in range(x.shape[1]):
            y[b, i] = x[b, i] * scale


@_compiled
def _turn(x, turn, place, y):
    """Y = a head's vector, turned by its position; turn [2, C, E], the sines with their signs."""
    e = len(x)
    half = e // 2
    for i in range(half):
        y[i] = x[i] * turn[0, place, i] + x[i + half] * turn[1, place, i]
        y[i + half] = x[i + half] * turn[0, place, i + half] + x[i] * turn[1, place, i + half]


@_compiled
def _attend(query, keys, values, scores, mixed):
    """Mixed [E] = softmax(query . keys [C, E]) values."""
    width = len(query)
    scale = np.float32(1 / math.sqrt(width))
    highest = np.float32(-np.inf)
    for s in range(len(keys)):
        scores[s] = _dot(keys[s], query) * scale
        highest = max(highest, scores[s])
    total = np.float32(0)
    for s in range(len(keys)):
        scores[s] = _exp(scores[s] - highest)
        total += scores[s]
    mixed[:] = 0
    for s in range(len(keys)):
        for i in range(width):
            mixed[i] += scores[s] * values[s, i]
    for i in range(width):
        mixed[i] /= total


@_compiled
def _attend_shared(number, meeting, stage, slots, places, turn, keys, values, rooms, heads):
    """Turn, keep and attend: a share is a row and a key/value head with the query heads that have it."""
    kv_heads, width = keys.shape[1], keys.shape[3]
    group = heads // kv_heads
    shares = len(slots) * kv_heads
    share = _take(meeting, stage, shares)
    while share >= 0:
        b, kv_head = share // kv_heads, share % kv_heads
        slot, place, qkv = slots[b], places[b], rooms.qkv[b]
        kept_keys, kept_values = keys[slot, kv_head, : place + 1], values[slot, kv_head, : place + 1]
        key, value = (heads + kv_head) * width, (heads + kv_heads + kv_head) * width
        _turn(qkv[key : key + width], turn, place, kept_keys[place])
        kept_values[place] = qkv[value : value + width]
        for head in range(kv_head * group, (kv_head + 1) * group):
            here = slice(head * width, (head + 1) * width)
            _turn(qkv[here], turn, place, rooms.query[number])
            _attend(rooms.query[number], kept_keys, kept_values, rooms.scores[number], rooms.mixed[b, here])
        share = _next(meeting, stage, shares)
    _await(meeting, stage, shares)
    return stage + 1


@_compiled
def _multiply_shared(threads, meeting, stage, matrix, scales, x, y, adds, normed, wide, eps):
    """Multiply, of x or, where eps is positive, of the norm of it, which each thread makes for itself."""
    outputs, inputs = matrix.shape
    shares = _num_shares(outputs, inputs, threads)
    share = _take(meeting, stage, shares)
    if share >= 0 and eps > 0:
        _norm(x, normed, eps)
    while share >= 0:
        begin, end = _border_of(share, shares, outputs), _border_of(share + 1, shares, outputs)
        _multiply(matrix, scales, normed if eps > 0 else x, y, wide, begin, end, adds)
        share = _next(meeting, stage, shares)
    _await(meeting, stage, shares)
    return stage + 1


@_compiled
def _gate_shared(threads, meeting, stage, matrix, scales, x, gated, up, normed, wide, eps):
    """Gated = silu(norm(x) gate^T) * norm(x) up^T; gate and up are one matrix [2 F, D]."""
    f, inputs = matrix.shape[0] // 2, matrix.shape[1]
    shares = _num_shares(f, 2 * inputs, threads)
    share = _take(meeting, stage, shares)
    if share >= 0:
        _norm(x, normed, eps)
    while share >= 0:
        begin, end = _border_of(share, shares, f), _border_of(share + 1, shares, f)
        _multiply(matrix[:f], scales[:f], normed, gated, wide, begin, end, False)
        _multiply(matrix[f:], scales[f:], normed, up, wide, begin, end, False)
        for b in range(len(x)):
            for o in range(begin, end):
                gated[b, o] = gated[b, o] / (np.float32(1) + _exp(min(-gated[b, o], np.float32(87)))) * up[b, o]
        share = _next(meeting, stage, shares)
    _await(meeting, stage, shares)
    return stage + 1


@_kept
def decode(
    number, threads, meeting, tokens, slots, places, embedding, weights,
    scales, turn, keys, values, rooms, eps, heads, logits,
):  # fmt: skip
    """Run one thread's part of a step, see `lumi.inference.cpu.decoder.CpuDecoder`.

    Args:
        number: of this thread; ``meeting`` is where the threads meet, int64 zeros, two for each stage.
        tokens: of the rows; ``slots`` and ``places`` say where they belong.
        embedding: [V, D].
        weights: `Matrices`; ``scales`` are what their rows are multiplied with.
        turn: [2, C, E], cosines, and sines with their signs.
        keys: and values: [L, S, K, C, E]; those of the tokens are added.
        rooms: `Rooms`.
        logits: [B, V], written.
    """
    rows = len(tokens)
    x, qkv, mixed, gated, up = rooms.x[:rows], rooms.qkv[:rows], rooms.mixed[:rows], rooms.gated[:rows], rooms.up[:rows]
    normed, wide = rooms.normed[number, :rows], rooms.wide[number]
    if _take(meeting, 0, 1) == 0:
        for b in range(rows):
            for i in range(x.shape[1]):
                x[b, i] = _widened(embedding[tokens[b], i])
        _hand_in(meeting, 0)
    _await(meeting, 0, 1)
    at, none = 1, 0.0
    for n in range(len(weights.qkv)):
        at = _multiply_shared(threads, meeting, at, weights.qkv[n], scales.qkv[n], x, qkv, False, normed, wide, eps)
        at = _attend_shared(number, meeting, at, slots, places, turn, keys[n], values[n], rooms, heads)
        at = _multiply_shared(threads, meeting, at, weights.out[n], scales.out[n], mixed, x, True, normed, wide, none)
        at = _gate_shared(threads, meeting, at, weights.gate_up[n], scales.gate_up[n], x, gated, up, normed, wide, eps)
        at = _multiply_shared(threads, meeting, at, weights.down[n], scales.down[n], gated, x, True, normed, wide, none)
    _multiply_shared(threads, meeting, at, weights.head, scales.head, x, logits, False, normed, wide, eps)


@_compiled
def _border(values, wanted, by_count):
    """Return the largest number such that the values from it on are ``wanted`` many, or sum to ``wanted``.

    The values are not negative; the number is found bit by bit.
    """
    found = np.int32(0)
    for place in range(30, -1, -1):
        tried = _of_bits(np.int32(found | (1 << place)))
        reached = 0.0
        if by_count:
            for v in range(len(values)):
                reached += 1.0 if values[v] >= tried else 0.0
        else:
            for v in range(len(values)):
                reached += np.float64(values[v]) if values[v] >= tried else 0.0
        if reached >= wanted:
            found = np.int32(found | (1 << place))
    return _of_bits(found)


@_compiled
def _nucleus(chances, likely, wanted):
    """Return the border of the likeliest tokens whose chances sum to ``wanted``; nearly always they are few."""
    count, total = 0, 0.0
    for v in range(len(chances)):
        if chances[v] >= _LIKELY:
            likely[count] = chances[v]
            total += chances[v]
            count += 1
    return _border(likely[:count] if total >= wanted else chances, wanted, False)


@_compiled
def _pick(chances, uniform):
    """Return the token where the sum of chances passes ``uniform`` of all."""
    total = 0.0
    for v in range(len(chances)):
        total += chances[v]
    target, reached, last = uniform * total, 0.0, 0
    for begin in range(0, len(chances), _PART):
        part = 0.0
        for v in range(begin, min(begin + _PART, len(chances))):
            part += chances[v]
        if reached + part > target:
            for v in range(begin, min(begin + _PART, len(chances))):
                reached += chances[v]
                if chances[v] > 0:
                    last = v
                    if reached > target:
                        return v
        else:
            reached += part
            if part > 0:
                for v in range(begin, min(begin + _PART, len(chances))):
                    last = v if chances[v] > 0 else last
    return last  # a number next to 1, rounded up


@_compiled
def _draw_row(logits, temperature, top_k, top_p, min_p, uniform, chances, likely):
    vocab = len(logits)
    highest = np.float32(-np.inf)
    for v in range(vocab):
        highest = max(highest, logits[v])
    if temperature < _COLDEST:
        for v in range(vocab):
            if logits[v] == highest:
                return v
        return 0  # nothing is a number
    total, warmth = 0.0, np.float32(temperature)
    for v in range(vocab):
        chances[v] = _exp((logits[v] - highest) / warmth)  # the likeliest has 1
    least = np.float32(0)
    if 0 < top_k < vocab:
        least = _border(chances, top_k, True)
    if top_p < 1:
        for v in range(vocab):
            chances[v] = chances[v] if chances[v] >= least else np.float32(0)
            total += chances[v]
        least = max(least, _nucleus(chances, likely, top_p * total))
    least = max(least, np.float32(min_p))
    for v in range(vocab):
        chances[v] = chances[v] if chances[v] >= least else np.float32(0)
    return _pick(chances, uniform)


@_kept
def draw(number, threads, meeting, logits, settings, uniforms, chances, chosen):
    """Draw a token for each row as `lumi.inference.sampling.sample` does; a share is a row.

    Args:
        number: of this thread; ``meeting`` as in `decode`.
        logits: float32 [B, V], after bias and penalties.
        settings: float32 [B, 7], in the order of `sampling.Sampling`.
        uniforms: a number in [0, 1) for each row.
        chances: room, float32 [T, 2, V].
        chosen: int64 [B], written.
    """
    b = _take(meeting, 0, len(logits))
    while b >= 0:
        one = settings[b]
        chosen[b] = _draw_row(
            logits[b], one[0], one[1], one[2], one[3], uniforms[b], chances[number, 0], chances[number, 1]
        )
        b = _next(meeting, 0, len(logits))
    _await(meeting, 0, len(logits))
