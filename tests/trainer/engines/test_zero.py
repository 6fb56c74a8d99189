"""Parameters cut into the rows of a matrix, and put together again, as both layouts of ZeRO do it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megabatch.trainer.engines.zero import _Piece

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(SHAPES, st.integers(1, 5), st.booleans())
def test_what_is_written_to_the_shards_is_read_again(shapes: list[list[int]], ranks: int, by_columns: bool) -> None:
    """Stage 1 and 2 cut the line of all parameters; stage 3 (columns) each of them, with padding at its end."""
    pieces, offset = [], 0
    for number, shape in enumerate(shapes):
        elements = torch.Size(shape).numel()
        columns = -(-elements // ranks) if by_columns else None
        pieces.append(_Piece(str(number), torch.Size(shape), offset, columns))
        offset += elements if columns is None else columns
    width = offset if by_columns else -(-offset // ranks)
    matrix_RS = torch.zeros(ranks, width)
    values = [torch.randn(shape) for shape in shapes]
    for piece, value in zip(pieces, values, strict=True):
        piece.write(matrix_RS, value)
    for piece, value in zip(pieces, values, strict=True):
        assert torch.equal(piece.read(matrix_RS), value)
    assert int(matrix_RS.count_nonzero()) <= sum(value.numel() for value in values)
    if by_columns:  # rank 0 holds the beginning of every parameter
        first = pieces[-1]
        assert torch.equal(matrix_RS[0, first.offset :][:1], values[-1].reshape(-1)[:1])
    else:  # the rows, one after the other, are the parameters
        whole = torch.cat([value.reshape(-1) for value in values])
        assert torch.equal(matrix_RS.view(-1)[: whole.numel()], whole)
