"""Kernels for decoding on CUDA: one new token a row, few kernels a layer, so that memory is what bounds a step.

    gather -> ( norm, q k v -> rotate, keep, attend -> out, add -> norm, gate up -> down, add ) x layers
           -> norm, head -> draw

Each does what the plain decoder does, except that a norm's scale is applied behind its product; whoever writes a row
keeps the squares for it, summed over `SQUARES` columns each. Where programs share the work on one result, the last of
them to be done puts it together: `arrived` counts them, and is zero between kernels. A row names its slot, and
everything a slot needs stands on the device, so that the host sends nothing between steps. One or two rows are
multiplied without matrix units, each program reading whole rows of a matrix at once: what counts then is how soon the
last byte arrives.

For prompts: `norm_rows`, `turn`, `attend_prompts`, `gate_rows` stand between the products.

Shapes: B rows, D d_model, H query heads, K key/value heads, E head_dim, F d_ffn, V vocabulary, S slots, C positions
of a slot, P parts of a row's attention, Q = D / SQUARES rounded up.
"""

import triton
import triton.language as tl

SQUARES: tl.constexpr = tl.constexpr(16)


@triton.jit
def _let_next_start(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait_for_previous(EARLY: tl.constexpr):
    if EARLY:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _prefetch(addresses, EARLY: tl.constexpr):
    """Bring lines of memory (64 numbers of two bytes) to the second cache while the kernel before is still at work."""
    if EARLY:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [addresses], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def _keep_squares(values, squares, m, here, first, D, BM: tl.constexpr, BN: tl.constexpr):
    """Store the sums of squares of some columns of x, [BM, BN], from column ``first`` on; beyond D they are zero."""
    wide = values.to(tl.float32)
    sums = tl.sum(tl.reshape(wide * wide, [BM, BN // SQUARES, SQUARES]), 2)
    count = tl.cdiv(D, SQUARES)
    q = first // SQUARES + tl.arange(0, BN // SQUARES)
    tl.store(squares + m[:, None] * count + q[None, :], sums, mask=here & (q < count)[None, :])


@triton.jit
def gather(last, slots, table, x, squares, D, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """x[row] = table[last token of its slot]; squares [B, Q] of it."""
    _let_next_start(EARLY)
    _wait_for_previous(EARLY)
    row = tl.program_id(0)
    token = tl.load(last + tl.load(slots + row)).to(tl.int64)
    first = tl.program_id(1) * BLOCK
    at = first + tl.arange(0, BLOCK)
    values = tl.load(table + token * D + at, mask=at < D, other=0.0)
    tl.store(x + row * D + at, values, mask=at < D)
    m = row + tl.arange(0, 1)
    _keep_squares(values[None, :], squares, m, (m >= 0)[:, None], first, D, 1, BLOCK)


@triton.jit
def _is_last(counter, COUNT: tl.constexpr):
    """Say whether all others of ``COUNT`` programs have stored their shares; sets the counter back for the next."""
    tl.debug_barrier()  # every thread's stores stand before the count
    last = tl.atomic_add(counter, 1, sem="acq_rel") == COUNT - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit(do_not_specialize=["rows"])
def matmul(
    a, weight, out, squares, shares, arrived, rows, N, eps,
    K: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Out = a weight^T.

    NORM: of the normed rows of a, with the squares [B, Q] of a. GATED: silu of that, times the product with the rows
    of weight behind the first N. ADD: to what out holds; the squares of the result are written. SPLIT: so many
    programs share K; shares [SPLIT, B, N], float32, is used up.
    """
    tl.static_assert(SPLIT == 1 or not (NORM or GATED), "norms and gates are not shared out")
    _let_next_start(EARLY)
    # what a loop loads must go into one product and nowhere else: triton 3.6 gives a tile that has a second use, be it
    # a product or a sum of squares, one place too few, and fills it again while the matrix units still read it. So
    # gate and up are one product, and the squares come from elsewhere
    BOTH: tl.constexpr = 2 * BN if GATED else BN
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    both = tl.arange(0, BOTH)
    columns = tl.program_id(0) * BN + both % BN
    here, there = (m < rows)[:, None], (columns < N)[:, None]
    w_rows = weight + (columns + both // BN * N)[:, None].to(tl.int64) * K
    sums = tl.zeros([BM, BOTH], tl.float32)
    share = (K + SPLIT * BK - 1) // (SPLIT * BK) * BK
    first = tl.program_id(2) * share
    line = tl.minimum(first + 64 * tl.arange(0, triton.next_power_of_2(triton.cdiv(K, 64 * SPLIT))), K - 1)
    _prefetch(tl.where(there, w_rows, weight) + line[None, :], EARLY)
    _wait_for_previous(EARLY)
    if NORM:  # asked for now, and wanted behind the loop
        count: tl.constexpr = (K + SQUARES - 1) // SQUARES
        q = tl.arange(0, triton.next_power_of_2(count))
        parts = tl.load(squares + m[:, None] * count + q[None, :], mask=here & (q < count)[None, :], other=0.0)
    for begin in range(first, min(first + share, K), BK):
        k = begin + tl.arange(0, BK)
        inside = (k < K)[None, :]
        left = tl.load(a + m[:, None] * K + k[None, :], mask=here & inside, other=0.0)
        w = tl.load(w_rows + k[None, :], mask=there & inside, other=0.0)
        sums = tl.dot(left, tl.trans(w), sums, input_precision="ieee")
    if NORM:
        sums *= tl.rsqrt(tl.sum(parts, 1) / K + eps)[:, None]
    if GATED:
        sums, others = tl.split(tl.permute(tl.reshape(sums, [BM, 2, BN]), [0, 2, 1]))
    else:
        others = sums
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    kept = here & (n < N)[None, :]
    at = m[:, None].to(tl.int64) * N + n[None, :]
    last = True
    if SPLIT > 1:
        size = rows.to(tl.int64) * N
        tl.store(shares + tl.program_id(2) * size + at, sums, mask=kept)
        last = _is_last(arrived + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), SPLIT)
        if last:
            sums = tl.zeros([BM, BN], tl.float32)
            for number in tl.static_range(SPLIT):
                sums += tl.load(shares + number * size + at, mask=kept, other=0.0, cache_modifier=".cg")
    if last:
        y = _finish(sums, others, out + at, kept, GATED, ADD, weight.dtype.element_ty).to(out.dtype.element_ty)
        tl.store(out + at, y, mask=kept)
        if ADD:
            _keep_squares(y, squares, m, here, tl.program_id(0) * BN, N, BM, BN)


@triton.jit
def matvec(
    a, weight, out, N, eps,
    K: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr, ADD: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """What `matmul` does, for a row at a time; the weights are on their way before the row is there.

    The squares are no work worth saving here: every program has the whole row.
    """
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
def _weighed(keys, values, query, valid, highest, total, gathered):
    """Return the state of a softmax's sum with some more keys [BS, E] and values in it; there may be no valid one."""
    scores = tl.where(valid, tl.sum(keys.to(tl.float32) * query[None, :], 1), float("-inf"))
    higher = tl.maximum(highest, tl.max(scores, 0))
    finite = tl.maximum(higher, -1e30)
    shrunk = tl.exp(highest - finite)
    weights = tl.exp(scores - finite)
    total = total * shrunk + tl.sum(weights, 0)
    return higher, total, gathered * shrunk + tl.sum(weights[:, None] * values.to(tl.float32), 0)


@triton.jit
def attend(
    qkv, slots, lengths, rotary, keys, values, mixed, parts, sums, arrived, capacity, positions, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, P: tl.constexpr, BS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Turn a row's query and key, keep key and value, and attend to a part of the slot.

    The result goes to mixed [B, H E];
    parts [B, H, P, E] and sums [B, H, P] (logarithms of the softmax's denominators), float32, are used up.
    """
    _let_next_start(EARLY)
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_head = head // (H // K)
    kind = keys.dtype.element_ty
    slot = tl.load(slots + row).to(tl.int64)
    length = tl.load(lengths + slot)
    base = (slot * K + kv_head) * capacity * E
    share = tl.cdiv(tl.cdiv(length, P), BS) * BS
    begin, end = part * share, tl.minimum(length, (part + 1) * share)
    e, s = tl.arange(0, WIDTH), tl.arange(0, BS)
    # what the slot has is on its way while the row is turned, and even while the kernel before runs: no kernel of a
    # step writes positions that the slot had before it, and the first one does not start before `draw` has ended
    at = base + (begin + s)[:, None].to(tl.int64) * E + e[None, :]
    there = (begin + s < end)[:, None] & (e < E)[None, :]
    key_tile, value_tile = tl.load(keys + at, mask=there, other=0.0), tl.load(values + at, mask=there, other=0.0)
    cos = tl.load(rotary + length * E + e, mask=e < E, other=0.0)
    sin = tl.load(rotary + (positions + length) * E + e, mask=e < E, other=0.0)
    _wait_for_previous(EARLY)
    own = qkv + row * (H + 2 * K) * E
    query = _rotated(own + head * E, e, cos, sin, E).to(kind).to(tl.float32) * scale
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
    highest, total, gathered = _weighed(key_tile, value_tile, query, begin + s < end, highest, total, gathered)
    for further in range(begin + BS, end, BS):
        at = base + (further + s)[:, None].to(tl.int64) * E + e[None, :]
        there = (further + s < end)[:, None] & (e < E)[None, :]
        key_tile, value_tile = tl.load(keys + at, mask=there, other=0.0), tl.load(values + at, mask=there, other=0.0)
        highest, total, gathered = _weighed(key_tile, value_tile, query, further + s < end, highest, total, gathered)
    result = mixed + (row * H + head) * E + e
    if P == 1:
        tl.store(result, (gathered / total).to(kind), mask=e < E)
    else:
        first = (row * H + head) * P
        tl.store(parts + (first + part) * E + e, gathered / tl.maximum(total, 1e-30), mask=e < E)
        tl.store(sums + first + part, highest + tl.log(total))
        if _is_last(arrived + row * H + head, P):
            p = tl.arange(0, P)
            logs = tl.load(sums + first + p, cache_modifier=".cg")
            shares = tl.exp(logs - tl.max(logs, 0))
            of_all = parts + (first + p)[:, None] * E + e[None, :]
            found = tl.load(of_all, mask=(e < E)[None, :], other=0.0, cache_modifier=".cg")
            tl.store(result, (tl.sum(found * shares[:, None], 0) / tl.sum(shares, 0)).to(kind), mask=e < E)


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

    It lets no other kernel start early: what it writes is read by the next step before that waits.

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
    kept = ((tl.load(slots + row).to(tl.int64) * K + (head - H) % K) * capacity + place) * E
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


@triton.jit
def attend_prompts(
    qkv, tiles, keys, values, mixed, capacity, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Let tokens attend to all of their slots up to themselves, which `turn` has kept there.

    tiles [tiles, 4], int32: the first token of a tile, how many it has (at most BM), their slot, the first one's place.
    """
    tile, head = tiles + 4 * tl.program_id(0), tl.program_id(1)
    token, count, slot, place = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2).to(tl.int64), tl.load(tile + 3)
    m, e = tl.arange(0, BM), tl.arange(0, WIDTH)
    row = (token + m).to(tl.int64)
    here = (m < count)[:, None] & (e < E)[None, :]
    query = tl.load(qkv + (row[:, None] * (H + 2 * K) + head) * E + e[None, :], mask=here, other=0.0)
    base = (slot * K + head // (H // K)) * capacity * E
    highest = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    gathered = tl.zeros([BM, WIDTH], tl.float32)
    end = place + count
    for begin in range(0, end, BS):
        s = begin + tl.arange(0, BS)
        there = (s < end)[:, None] & (e < E)[None, :]
        at = base + s[:, None].to(tl.int64) * E + e[None, :]
        key = tl.load(keys + at, mask=there, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(s[None, :] <= (place + m)[:, None], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrunk = tl.exp(highest - higher)
        weights = tl.exp(scores - higher[:, None])
        total = total * shrunk + tl.sum(weights, 1)
        value = tl.load(values + at, mask=there, other=0.0)
        gathered = tl.dot(weights.to(value.dtype), value, gathered * shrunk[:, None], input_precision="ieee")
        highest = higher
    result = mixed + (row[:, None] * H + head) * E + e[None, :]
    tl.store(result, (gathered / total[:, None]).to(query.dtype), mask=here)
