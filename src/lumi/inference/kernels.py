"""Kernels for decoding on CUDA: one new token a row, few kernels a layer, so that memory is what bounds a step.

    gather -> ( norm, q k v -> rotate, keep, attend (-> join) -> out, add -> norm, gate up -> down, add ) x layers
           -> norm, head -> draw

Each does what the plain decoder does, except that a norm's scale is applied behind its product. Attention of a row
is shared out among several programs where rows are few. A row names its slot, and everything a slot needs stands on
the device, so that the host sends nothing between steps. One or two rows are multiplied without matrix units, each
program reading whole rows of a matrix at once: what counts then is how soon the last byte arrives.

Shapes: B rows, D d_model, H query heads, K key/value heads, E head_dim, F d_ffn, V vocabulary, S slots, C positions
of a slot, P parts of a row's attention.
"""

import triton
import triton.language as tl


@triton.jit
def _let_next_start(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait_for_previous(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def gather(last, slots, table, x, D, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """x[row] = table[last token of its slot]."""
    _let_next_start(EARLY)
    _wait_for_previous(EARLY)
    row = tl.program_id(0)
    token = tl.load(last + tl.load(slots + row)).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + row * D + at, tl.load(table + token * D + at, mask=at < D), mask=at < D)


@triton.jit(do_not_specialize=["rows"])
def matmul(
    a, weight, out, rows, N, eps,
    K: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Out = a weight^T.

    NORM: of the normed rows of a. GATED: silu of that, times the product with the rows of weight behind the first N.
    ADD: to what out holds. SPLIT: out [SPLIT, B, N], float32, gets the product of each share of K, for `add_up`.
    """
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    here, there = (m < rows)[:, None], (n < N)[:, None]
    squares = tl.zeros([BM], tl.float32)
    sums = tl.zeros([BM, BN], tl.float32)
    others = tl.zeros([BM, BN], tl.float32)
    share = (K + SPLIT * BK - 1) // (SPLIT * BK) * BK
    first = tl.program_id(2) * share
    for begin in range(first, min(first + share, K), BK):
        k = begin + tl.arange(0, BK)
        inside = (k < K)[None, :]
        left = tl.load(a + m[:, None] * K + k[None, :], mask=here & inside, other=0.0)
        w = tl.load(weight + n[:, None].to(tl.int64) * K + k[None, :], mask=there & inside, other=0.0)
        sums = tl.dot(left, tl.trans(w), sums, input_precision="ieee")
        if GATED:
            w2 = tl.load(weight + (n[:, None] + N).to(tl.int64) * K + k[None, :], mask=there & inside, other=0.0)
            others = tl.dot(left, tl.trans(w2), others, input_precision="ieee")
        if NORM:
            wide = left.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
    scale = tl.rsqrt(squares / K + eps)[:, None] if NORM else 1.0
    at = out + (tl.program_id(2) * rows + m[:, None]).to(tl.int64) * N + n[None, :]
    kept = here & (n < N)[None, :]
    y = sums
    if SPLIT == 1:
        y = _finish(sums * scale, others * scale, at, kept, GATED, ADD, weight.dtype.element_ty)
    tl.store(at, y.to(out.dtype.element_ty), mask=kept)


@triton.jit
def add_up(shares, x, size, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    """X += the sum of shares [SPLIT, size]."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for share in tl.static_range(SPLIT):
        total += tl.load(shares + share * size + at, mask=at < size, other=0.0)
    kind = x.dtype.element_ty
    y = total.to(kind).to(tl.float32) + tl.load(x + at, mask=at < size, other=0.0).to(tl.float32)
    tl.store(x + at, y.to(kind), mask=at < size)


@triton.jit
def matvec(
    a, weight, out, N, eps,
    K: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What `matmul` does, for a row at a time; the weights are on their way before the row is there."""
    _let_next_start(EARLY)
    row = tl.program_id(1)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    at = weight + n[:, None].to(tl.int64) * K + k[None, :]
    inside = (n < N)[:, None] & (k < K)[None, :]
    w = tl.load(at, mask=inside, other=0.0)
    w2 = tl.load(at + N.to(tl.int64) * K, mask=inside, other=0.0) if GATED else w
    _wait_for_previous(EARLY)
    left = tl.load(a + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    squares = left * left
    sums = w.to(tl.float32) * left[None, :]
    others = w2.to(tl.float32) * left[None, :]
    for begin in tl.static_range(BK, K, BK):
        inside = (n < N)[:, None] & (begin + k < K)[None, :]
        w = tl.load(at + begin, mask=inside, other=0.0)
        left = tl.load(a + row * K + begin + k, mask=begin + k < K, other=0.0).to(tl.float32)
        squares += left * left
        sums += w.to(tl.float32) * left[None, :]
        if GATED:
            w2 = tl.load(at + begin + N.to(tl.int64) * K, mask=inside, other=0.0)
            others += w2.to(tl.float32) * left[None, :]
    scale = tl.rsqrt(tl.sum(squares, 0) / K + eps) if NORM else 1.0
    place = out + row.to(tl.int64) * N + n
    y = _finish(tl.sum(sums, 1) * scale, tl.sum(others, 1) * scale, place, n < N, GATED, ADD, weight.dtype.element_ty)
    tl.store(place, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _finish(y, other, at, kept, GATED: tl.constexpr, ADD: tl.constexpr, kind: tl.constexpr):
    """Gate a product, or add it to what is there, rounding where the plain decoder rounds."""
    if GATED:
        y = y.to(kind).to(tl.float32)
        y = (y / (1.0 + tl.exp(-y))).to(kind).to(tl.float32) * other.to(kind).to(tl.float32)
    if ADD:
        y = y.to(kind).to(tl.float32) + tl.load(at, mask=kept, other=0.0).to(tl.float32)
    return y


@triton.jit
def _rotated(x, e, cos, sin, E: tl.constexpr):
    """Return a head's vector, turned by its position, float32."""
    half = tl.load(x + e, mask=e < E, other=0.0).to(tl.float32)
    other = tl.load(x + tl.where(e < E // 2, e + E // 2, e - E // 2), mask=e < E, other=0.0).to(tl.float32)
    return half * cos + tl.where(e < E // 2, -other, other) * sin


@triton.jit
def attend(
    qkv, slots, lengths, rotary, keys, values, mixed, parts, sums, capacity, positions, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, BS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Turn a row's query and key, keep key and value, and attend to a part of the slot.

    With one part the result goes to mixed [B, H E]; else parts [B, H, P, E] and sums [B, H, P] (logarithms of the
    softmax's denominators), float32, hold what `join` makes it of.
    """
    _let_next_start(EARLY)
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_head = head // (H // K)
    kind = keys.dtype.element_ty
    slot = tl.load(slots + row).to(tl.int64)
    length = tl.load(lengths + slot)
    e = tl.arange(0, WIDTH)
    cos = tl.load(rotary + length * E + e, mask=e < E, other=0.0)
    sin = tl.load(rotary + (positions + length) * E + e, mask=e < E, other=0.0)
    _wait_for_previous(EARLY)
    own = qkv + row * (H + 2 * K) * E
    query = _rotated(own + head * E, e, cos, sin, E).to(kind).to(tl.float32) * scale
    base = (slot * K + kv_head) * capacity * E
    highest = tl.full([], float("-inf"), tl.float32)
    total = tl.zeros([], tl.float32)
    gathered = tl.zeros([WIDTH], tl.float32)
    if part == 0:
        key = _rotated(own + (H + kv_head) * E, e, cos, sin, E).to(kind)
        value = tl.load(own + (H + K + kv_head) * E + e, mask=e < E, other=0.0)
        if head % (H // K) == 0:  # once for all query heads that share it
            place = base + length.to(tl.int64) * E
            tl.store(keys + place + e, key, mask=e < E)
            tl.store(values + place + e, value, mask=e < E)
        highest = tl.sum(query * key.to(tl.float32), 0)
        total += 1.0
        gathered = value.to(tl.float32)
    share = tl.cdiv(tl.cdiv(length, P), BS) * BS
    end = tl.minimum(length, (part + 1) * share)
    for begin in range(part * share, end, BS):
        s = begin + tl.arange(0, BS)
        there = (s < end)[:, None] & (e < E)[None, :]
        at = base + s[:, None].to(tl.int64) * E + e[None, :]
        key = tl.load(keys + at, mask=there, other=0.0).to(tl.float32)
        value = tl.load(values + at, mask=there, other=0.0).to(tl.float32)
        score = tl.where(s < end, tl.sum(key * query[None, :], 1), float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 0))
        shrunk = tl.exp(highest - higher)
        weight = tl.exp(score - higher)
        total = total * shrunk + tl.sum(weight, 0)
        gathered = gathered * shrunk + tl.sum(weight[:, None] * value, 0)
        highest = higher
    if P == 1:
        tl.store(mixed + (row * H + head) * E + e, (gathered / total).to(kind), mask=e < E)
    else:
        at = (row * H + head) * P + part
        tl.store(parts + at * E + e, gathered / tl.maximum(total, 1e-30), mask=e < E)
        tl.store(sums + at, highest + tl.log(total))


@triton.jit
def join(parts, sums, mixed, E: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, EARLY: tl.constexpr):
    """Weigh the parts of a row's and head's attention by their shares of the softmax."""
    _let_next_start(EARLY)
    _wait_for_previous(EARLY)
    at = tl.program_id(0)
    e, p = tl.arange(0, WIDTH), tl.arange(0, P)
    logs = tl.load(sums + at * P + p)
    shares = tl.exp(logs - tl.max(logs, 0))
    values = tl.load(parts + (at * P + p[:, None]) * E + e[None, :], mask=(e < E)[None, :], other=0.0)
    y = tl.sum(values * shares[:, None], 0) / tl.sum(shares, 0)
    tl.store(mixed + at * E + e, y.to(mixed.dtype.element_ty), mask=e < E)


@triton.jit
def _border(values, wanted, by_count: tl.constexpr):
    """Return the largest number t such that values >= t are ``wanted`` many, or sum to ``wanted``; they are >= 0.

    The bits of numbers that are not negative are ordered as the numbers are, so t is found bit by bit.
    """
    bits = values.to(tl.int32, bitcast=True)
    found = tl.zeros([], tl.int32)
    for place in range(31):
        tried = found | (1 << (30 - place))
        if by_count:
            reached = tl.sum((bits >= tried).to(tl.float32), 0)
        else:
            reached = tl.sum(tl.where(bits >= tried, values, 0.0), 0)
        found = tl.where(reached >= wanted, tried, found)
    return found.to(tl.float32, bitcast=True)


@triton.jit
def draw(
    logits, slots, last, lengths, settings, uniforms, counts, bias, chosen, V, capacity, nobody,
    BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Draw a token for each row as `sampling.sample` does, and feed it to its slot.

    settings [S, 8]: temperature, top-k, top-p, min-p, repetition, presence, frequency, whether logits are adjusted.
    """
    _wait_for_previous(EARLY)
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    length = tl.load(lengths + slot)
    own = settings + slot * 8
    temperature, top_k, top_p = tl.load(own), tl.load(own + 1), tl.load(own + 2)
    min_p, adjusted = tl.load(own + 3), tl.load(own + 7)
    v = tl.arange(0, BLOCK)
    inside = v < V
    x = tl.load(logits + row.to(tl.int64) * V + v, mask=inside, other=float("-inf"))
    if adjusted > 0:
        repetition, presence, frequency = tl.load(own + 4), tl.load(own + 5), tl.load(own + 6)
        count = tl.load(counts + slot * V + v, mask=inside, other=0).to(tl.int32)
        x += tl.load(bias + slot * V + v, mask=inside, other=0.0)
        x = tl.where(count > 0, tl.where(x > 0, x / repetition, x * repetition), x)
        times = (count & 16383).to(tl.float32)
        x = x - times * frequency - tl.where(times > 0, presence, 0.0)
    highest = tl.max(x, 0)
    token = tl.min(tl.where(x == highest, v, BLOCK), 0)  # the first of equals, as argmax has it
    if temperature > 0:
        chance = tl.where(inside, tl.exp((x - highest) / temperature), 0.0)  # the likeliest has 1
        least = min_p
        if (top_k > 0) & (top_k < V):
            kept = _border(chance, top_k, True)
            chance = tl.where(chance >= kept, chance, 0.0)
        if top_p < 1:
            least = tl.maximum(least, _border(chance, top_p * tl.sum(chance, 0), False))
        chance = tl.where(chance >= least, chance, 0.0)
        reached = tl.cumsum(chance, 0)
        total = tl.max(reached, 0)
        target = tl.load(uniforms + slot * capacity + length).to(tl.float32) * total
        drawn = tl.sum((reached <= target).to(tl.int32), 0)
        token = tl.minimum(drawn, tl.max(tl.where(chance > 0, v, 0), 0))  # a number next to 1, rounded up
    token = tl.minimum(token, V - 1)  # where nothing is a number, nothing is the highest
    tl.store(chosen + row, token)
    tl.store(last + slot, token)
    tl.store(lengths + slot, tl.where(slot == nobody, 0, tl.minimum(length + 1, capacity - 1)))
    if adjusted > 0:
        place = counts + slot * V + token
        count = tl.load(place)
        tl.store(place, tl.where((count & 16383) < 16383, count + 1, count))


@triton.jit
def norm_rows(x, y, D, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / D + eps)
    tl.store(y + row * D + at, (values * scale).to(y.dtype.element_ty), mask=at < D)


@triton.jit
def turn(
    qkv, slots, places, rotary, keys, values, capacity, positions,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn queries and keys of many tokens where they are, and keep keys and values."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    e = tl.arange(0, WIDTH)
    x = qkv + (row * (H + 2 * K) + head) * E
    place = tl.load(places + row)
    kind = qkv.dtype.element_ty
    kept = ((tl.load(slots + row) * K + (head - H) % K) * capacity + place) * E
    if head < H + K:
        cos = tl.load(rotary + place * E + e, mask=e < E, other=0.0)
        sin = tl.load(rotary + (positions + place) * E + e, mask=e < E, other=0.0)
        y = _rotated(x, e, cos, sin, E).to(kind)
        tl.debug_barrier()  # a vector is read whole before it is written
        tl.store(x + e, y, mask=e < E)
        if head >= H:
            tl.store(keys + kept + e, y, mask=e < E)
    else:
        tl.store(values + kept + e, tl.load(x + e, mask=e < E, other=0.0), mask=e < E)


@triton.jit
def gate_rows(gate_up, out, F, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    kind = out.dtype.element_ty
    gate = tl.load(gate_up + row * 2 * F + at, mask=at < F, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * F + F + at, mask=at < F, other=0.0).to(tl.float32)
    y = (gate / (1.0 + tl.exp(-gate))).to(kind).to(tl.float32) * up
    tl.store(out + row * F + at, y.to(kind), mask=at < F)
