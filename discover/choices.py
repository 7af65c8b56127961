"""The words that an option can take, each with what it means; imports nothing."""

from enum import Enum


class Dtype(Enum):
    """Number format of the model's weights; what is learned is float32 always."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(Enum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Attention(Enum):
    """Implementation of attention; a fixed list, because any other word may fetch code."""

    auto = "auto"
    sdpa = "sdpa"
    eager = "eager"


class Kind(Enum):
    """What is learned."""

    vector = "vector"
    """A vector added to the residual stream after the source block."""
    bias = "bias"
    """A vector added to the MLP output projection of the source block, as published; the same where no norm follows."""
    adapter = "adapter"
    """A low-rank change of that projection (LoRA)."""
    factor = "factor"
    """A rank-one change of one projection in each block of a band (CPE)."""
    head = "head"
    """A vector in the write space of one attention head of the source block."""


class Projection(Enum):
    """Which projection of every block factors change."""

    attention = "attention"
    mlp = "mlp"


class Layers(Enum):
    """Who chooses the layers that are not given."""

    pilot = "pilot"
    """The model's speech: a pilot tries a portfolio of layers, rounds and places of reading, and the best share the bank."""
    depth = "depth"
    """An eighth and half of the number of blocks."""
    middle = "middle"
    """Three eighths and five eighths: what decides how to answer, a refusal for example, is settled later than what is asked."""
    auto = "auto"
    """The atlas: among pairs in the first part of the model, that whose best direction is amplified most."""


class Target(Enum):
    """What is read at the target layer."""

    residual = "residual"
    attention = "attention"
    logits = "logits"


class Solver(Enum):
    """How the search moves a perturbation."""

    fixed_point = "fixed_point"
    ascent = "ascent"
    power = "power"
    """Singular vectors of the Jacobian at zero, by subspace iteration."""
    cpe = "cpe"
    random = "random"


class Similarity(Enum):
    """What soft diversity takes for alike."""

    weights = "weights"
    """The cosine between all parameters of two rows taken as one, as the code of CPE has it."""
    parts = "parts"
    """The sum of the cosines between their parts, as the paper of CPE has it."""
    update = "update"
    """The cosine between the changes that they stand for, whatever signs cancel."""


class Prompts(Enum):
    """How a fixed point sees several prompts."""

    mean = "mean"
    """The norm of the effect's mean over prompts: what is the same on all of them."""
    sum = "sum"
    """The sum over prompts of its norm."""


class Calibration(Enum):
    """What chooses the radius where none is given."""

    speech = "speech"
    """A few learned vectors speak at growing radii: the largest at which three replies in four are not degenerate."""
    turn = "turn"
    """Random directions turn the target residual by `search.turn` degrees."""
    departure = "departure"
    """The effect of random directions leaves its linearisation by `search.departure`."""


class Diversity(Enum):
    """What keeps the vectors of one search apart."""

    none = "none"
    orthogonal = "orthogonal"
    """All at once, each orthogonal to those before it."""
    sequential = "sequential"
    """One after the other, each orthogonal to those before it, as published."""
    soft = "soft"
    """Each is pushed off those it resembles, as in CPE."""
    deflation = "deflation"
    """In waves, each blind to the effects that earlier ones have claimed."""


class Method(Enum):
    """How a direction is learned from labelled examples."""

    means = "means"
    """The difference in means of the residual stream, at the layer and multiplier that act best."""
    refusal = "refusal"
    """The same at the layer and position that the published scores select, ablated as well as added."""
    heads = "heads"
    """One direction for each attention head, and those few heads that act best."""


class Moment(Enum):
    """Which token of an example a direction is taken at."""

    auto = "auto"
    """Whichever of the others acts best on the selection examples."""
    end = "end"
    """The last one."""
    start = "start"
    """The last one of the prompt, where prompts differ and completions follow: how to reply is about to be decided."""
    choice = "choice"
    """The one before the letter that its completion chooses, where that is about to be decided."""


class Measured(Enum):
    """What is counted to tell whether the model behaves as the positive examples do."""

    auto = "auto"
    """What the examples are made for: choice where all completions begin with a letter, likelihood for other pairs of
    completions, refusal for prompts alone."""
    choice = "choice"
    """Replies that choose the letter of the positive completion."""
    refusal = "refusal"
    """Replies to negative prompts that refuse."""
    likelihood = "likelihood"
    """Prompts after which the positive completion is likelier than the negative one."""


class Where(Enum):
    """At which positions an intervention acts."""

    everywhere = "everywhere"
    prompt = "prompt"
    said = "said"
    """At what is generated alone."""


class TrackingMode(Enum):
    """Where wandb sends a run."""

    offline = "offline"
    online = "online"
    disabled = "disabled"
