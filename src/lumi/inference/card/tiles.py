"""How the products of a step are cut into programs; measured, not computed."""

from typing import NamedTuple

import triton

MOST_SPLIT = 4


class Tile(NamedTuple):
    """What one program of a product computes, with how many warps and loads in flight; bm 1: `kernels.matvec`."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int = 1
    split: int = 1  # programs that share the inputs of one output

    def within(self, shared_bytes: int, itemsize: int, *, gated: bool) -> "Tile":
        """Return this tile with as many loads in flight, and as long ones, as a block has shared memory for."""
        tile = self
        while tile.bm > 1 and (tile.bm + tile.bn * (1 + gated)) * tile.bk * itemsize * tile.stages > shared_bytes:
            tile = tile._replace(stages=tile.stages - 1) if tile.stages > 2 else tile._replace(bk=tile.bk // 2)
        return tile


def num_parts(rows: int, heads: int) -> int:
    """Return among how many programs the attention of one row and head is shared out."""
    return min(16, int(triton.next_power_of_2(triton.cdiv(1024, rows * heads))))


def starts_early(rows: int, d_model: int) -> bool:
    """Say whether a kernel starts while the one before it runs, which a Hopper card can.

    Programs that wait take the place of those that work; these are the steps that gain by it nevertheless.
    """
    return rows <= 2 or (32 < rows <= 64 and d_model > 512)


_EARLY_TILES = {
    "qkv": Tile(64, 32, 128, 4, 6), "out": Tile(64, 16, 128, 4, 6), "gate_up": Tile(64, 32, 128, 4, 6),
    "down": Tile(64, 16, 128, 4, 4, MOST_SPLIT),
}  # fmt: skip


def tiling(product: str, rows: int, inputs: int, d_model: int) -> Tile:
    """Return the tile for a product: the quickest of some dozens on an H200 for the shapes of tiny, small and base."""
    if rows <= 2:
        if product == "head":
            return Tile(1, 16, min(256, triton.next_power_of_2(inputs)), 1)
        whole = min(4096, triton.next_power_of_2(inputs))
        return Tile(1, 2, whole, max(1, whole // 1024))
    bm = 16 if rows <= 16 else 32 if rows <= 32 else 64
    narrow, many = inputs <= 512, rows > 64
    if starts_early(rows, d_model) and product in _EARLY_TILES:
        return _EARLY_TILES[product]
    if product == "head":  # not 128 rows by 8 warps: triton 3.6 makes that wrong where outputs are no multiple of 16
        return Tile(bm, 128, 64, 4, 3)
    if product == "down" and inputs >= 2048:
        return Tile(bm, 64, 128, 4, 4, MOST_SPLIT) if many else Tile(min(bm, 32), 16, 128, 4, 3, MOST_SPLIT)
    if product == "down":
        return Tile(64, 16, 128, 4, 4) if many else Tile(min(bm, 32), 16, 256, 4, 3)
    if product == "out":
        return Tile(bm, 32 if many else 16, 128, 4, 4)
    if many:
        return Tile(64, 64, 64, 4, 3)
    if bm == 16:
        return Tile(16, 16, 256, 2, 3) if narrow else Tile(16, 32, 128, 4, 3)
    if product == "qkv":
        return Tile(bm, 32, 64, 4, 4)
    return Tile(bm, 16, 64, 4, 4) if narrow else Tile(bm, 32, 128, 4, 3)
