"""One progress bar a stage, with the time left; silent where there is no terminal."""

from tqdm import tqdm


def bar(stage: str, total: int) -> tqdm:
    """Return a bar over `total` units of work on standard error."""
    return tqdm(total=total, desc=f"{stage:<10}", disable=None, leave=True, dynamic_ncols=True)
