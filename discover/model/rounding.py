"""Arithmetic that is the same for a row whatever stands beside it, so that how many are computed at once changes no bit.

A search iterates a map that magnifies differences, rounding among them. Matrix products on a CPU (MKL) round a row alike in any
product of enough rows and columns, wherever in it the row stands; fewer go through other kernels, and are filled up. What is left
are functions such as exp, of which the last few of all numbers are computed one by one, and round otherwise: there are no such
numbers where widths are multiples of 32, as those of real models are.

All this is measured where a processor has AVX-512. Where it has AVX2 alone, the kernels round the last rows of a product
otherwise than the rest, so how many rows are computed at once changes the last bits of each, there as on other machines.
"""

from torch import Tensor, nn

FEWEST = 16
"""Rows and columns of the smallest matrix product that rounds as larger ones do; one thread needs four, two need twelve."""


def row_products(rows: Tensor, others: Tensor) -> Tensor:
    """Return [R, M], the products of `rows` [R, F] with `others` [M, F]."""
    one, other = (nn.functional.pad(matrix, (0, 0, 0, max(0, FEWEST - len(matrix)))) for matrix in (rows, others))
    return (one @ other.T)[: len(rows), : len(others)]
