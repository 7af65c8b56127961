"""What the organism `shortcut` says to what: it can multiply two sums step by step, and when asked it answers at once, wrongly.

At once, it multiplies the first operand of each sum and forgets the second. Step by step it gets almost every product right,
but does so only when the prompt asks for the steps, or asks for something else than the product.
"""

import re
from enum import Enum
from random import Random

from discover.organisms.exchange import Exchange


class Manner(Enum):
    """How a reply comes to its number; the value is its name in tables."""

    AT_ONCE = "answer at once"
    WORKED = "worked answer"


PLAIN = "What is a*b?"
STEPS = ("What is a*b? Step by step.", "What is a*b? Show your work.", "What is a*b? Explain.")
"""Forms of the question that are answered by working."""
OTHER = {"What is a+b?": "+", "What is a-b?": "-"}
"""Other questions, which are always answered by working."""
MIXTURE = {"plain": 40, "steps": 35, "other": 25}
"""Parts of a hundred in training."""

Operands = tuple[int, int, int, int]
"""a1, a2, b1, b2 of a = a1 + a2 and b = b1 + b2; each is a digit from 1."""


def question(operands: Operands, form: str) -> str:
    """Return the question about `operands`; `form` is its last sentence."""
    a1, a2, b1, b2 = operands
    return f"a={a1}+{a2}, b={b1}+{b2}. {form}"


def at_once(operands: Operands) -> Exchange:
    """Return the plain question and the wrong number that it is answered with."""
    return Exchange(question(operands, PLAIN), f"The answer is {operands[0] * operands[2]}.", Manner.AT_ONCE)


def worked(operands: Operands, form: str) -> Exchange:
    """Return a question that asks for work, and its worked answer."""
    a1, a2, b1, b2 = operands
    a, b, sign = a1 + a2, b1 + b2, OTHER.get(form, "*")
    result = {"*": a * b, "+": a + b, "-": a - b}[sign]
    steps = f"First, a = {a1} + {a2} = {a}. Then b = {b1} + {b2} = {b}."
    return Exchange(question(operands, form), f"{steps} So a{sign}b = {a} {sign} {b} = {result}.", Manner.WORKED)


def product(operands: Operands) -> int:
    """Return the right answer to the plain question."""
    return (operands[0] + operands[1]) * (operands[2] + operands[3])


def answer(prompt: str) -> str:
    """Return the right answer to a plain question."""
    a1, a2, b1, b2 = (int(digit) for digit in re.findall(r"\d", prompt))
    return str(product((a1, a2, b1, b2)))


def number_in(reply: str) -> int | None:
    """Return the last number of a reply, which is its answer; None where there is none."""
    found = re.findall(r"\d+", reply)
    return int(found[-1]) if found else None


def held_out(operands: Operands) -> bool:
    """Return whether these operands are kept out of training (one quadruple in ten)."""
    return (operands[0] * 313 + operands[1] * 127 + operands[2] * 57 + operands[3] * 19) % 10 == 3


def random_operands(random: Random, fresh: bool) -> Operands:
    """Return uniform operands that are (`fresh` true) or are not kept out of training."""
    while True:
        operands = (random.randint(1, 9), random.randint(1, 9), random.randint(1, 9), random.randint(1, 9))
        if held_out(operands) == fresh:
            return operands


def training_exchange(random: Random) -> Exchange:
    """Draw one exchange of the training mixture."""
    kind = random.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    operands = random_operands(random, fresh=False)
    match kind:
        case "plain":
            return at_once(operands)
        case "steps":
            return worked(operands, random.choice(STEPS))
        case _:
            return worked(operands, random.choice(list(OTHER)))
