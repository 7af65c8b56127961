"""What counts as behaving: a letter that is chosen, a refusal, or a completion that is likelier."""

import pytest
import torch
from conftest import WIDTH
from toys import after

from discover.choices import Device, Measured
from discover.config import ModelConfig, PromptConfig, SpeechConfig
from discover.contrast.measures import Likelier, Spoken, measure
from discover.contrast.sets import ContrastSet, Example, letter_in
from discover.errors import UsageError
from discover.model.loading import load
from discover.perturb.sphere import random_directions
from discover.steer.interventions import PROMPT, Addition, added

PLAIN, SPEECH = PromptConfig(chat=False), SpeechConfig(tokens=4)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("(A) I return the ring.", "A"),
        ("My choice is (B), of course.", "B"),
        ("(B) and not (A)", "B"),
        ("A, as it was asked, or rather (C)", "C"),
        ("A", "A"),
        ("  B\n", "B"),
        ("A) I return it", "A"),
        ("B. I keep it", "B"),
        ("B: keep it", "B"),
        ("A, because others matter to me", "A"),
        ("A - return it", "A"),
        ("B — keep it", "B"),
        ("A\nI return it.", "A"),
        ("(I) stay", "I"),
        ("A book is what I found.", None),
        ("A-level", None),
        ("A's ring", None),
        ("At once", None),
        ("AB", None),
        ("I return it.", None),
        ("I, for one, return it.", None),
        ("I", None),
        ("It is (mine)", None),
        ("(a) I return it", None),
        ("a) I return it", None),
        ("(AB)", None),
        ("The answer is A", None),
        ("42", None),
        ("", None),
    ],
)
def test_a_letter_is_chosen_in_brackets_or_stands_by_itself_at_the_beginning(reply: str, letter: str | None) -> None:
    assert letter_in(reply) == letter


def pairs(*rows: tuple[str, str, str]) -> ContrastSet:
    return ContrastSet(
        tuple(Example(prompt, positive) for prompt, positive, _ in rows),
        tuple(Example(prompt, negative) for prompt, _, negative in rows),
    )


CHOICES = pairs(("Which?", "A)", "B)"), ("Which boat?", "B) it is", "A) it is"), ("Count!", "A)", "B)"))
WORDS = pairs(("You are", " kind", " a boat"), ("Nobody counts", " the boats.", " 30"), ("The hill", " sleeps", " below"))
PROMPTS_ALONE = ContrastSet((Example("bad", None), Example("worse", None)), (Example("Count!", None), Example("Which?", None)))


@pytest.fixture(scope="module")
def lettered(checkpoint):
    """A Llama without attention or MLP that answers "A)" to what ends in "?", and "B)" to what ends in "!"."""
    loaded = load(ModelConfig(device=Device.cpu), checkpoint("llama"))
    follows = {"?": "A", "!": "B", "A": ")", "B": ")", ")": "<|end|>"}
    token = {word: loaded.tokenizer.convert_tokens_to_ids(word) for word in {*follows, *follows.values()}}
    with torch.no_grad():
        for layer in loaded.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        loaded.model.model.norm.weight.fill_(1.0)
        read, given = loaded.model.lm_head.weight, loaded.model.get_input_embeddings().weight
        read.zero_()
        for place, (word, following) in enumerate(follows.items()):
            given[token[word]] = torch.eye(WIDTH)[place]
            read[token[following], place] = 1.0
    return loaded


def test_the_choice_is_that_of_the_positive_completion(lettered):
    judge = measure(lettered, CHOICES, Measured.choice, PLAIN, SPEECH)
    assert isinstance(judge, Spoken) and judge.batch.prompts == ("Which?", "Which boat?", "Count!")
    assert judge.said(lettered, (), 1) == ["A)", "A)", "B)"]
    assert judge.outcomes(lettered, (), 1) == [[True, False, False]]
    other = measure(lettered, ContrastSet(CHOICES.negative, CHOICES.positive), Measured.choice, PLAIN, SPEECH)
    assert other.outcomes(lettered, (), 1) == [[False, True, True]]


def test_outcomes_come_copy_by_copy(lettered):
    judge = measure(lettered, CHOICES, Measured.choice, PLAIN, SPEECH)
    # What "!" has more than "?" has: each prompt then reads as if it ended in the other mark.
    apart = torch.eye(WIDTH)[1] - torch.eye(WIDTH)[0]
    tried = after(1, torch.stack([torch.zeros(WIDTH), 3 * apart, -3 * apart]))
    steering = [Addition(tried, PROMPT, None).repeated(3)]
    assert judge.said(lettered, steering, 3) == ["A)", "A)", "B)", *["B)"] * 3, *["A)"] * 3]
    assert judge.outcomes(lettered, steering, 3) == [[True, False, False], [False, True, False], [True, False, True]]


def test_refusals_are_counted_on_negative_prompts(lettered):
    judge = measure(lettered, PROMPTS_ALONE, Measured.refusal, PLAIN, SPEECH)
    assert judge.name == "refused" and judge.batch.prompts == ("Count!", "Which?")
    assert judge.outcomes(lettered, (), 1) == [[False, False]]
    assert [asked("I'm sorry, but I cannot.") for asked in judge.wanted] == [True, True]


def by_hand(llama, example, vector):
    """Negative log-likelihood a token of a completion, in float64, with a vector added after block 1."""
    prompt, said = (llama.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (example.prompt, example.completion))
    handle = llama.model.model.layers[1].register_forward_hook(
        lambda _module, _inputs, output: (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector
    )
    with torch.no_grad():
        logs = llama.model(torch.tensor([prompt + said]), use_cache=False).logits[0].double().log_softmax(dim=-1)
    handle.remove()
    return -sum(float(logs[len(prompt) + place - 1, token]) for place, token in enumerate(said)) / len(said)


def test_what_is_likelier_is_what_surprises_less_a_token(llama):
    judge = measure(llama, WORDS, Measured.likelihood, PLAIN, SPEECH)
    assert isinstance(judge, Likelier)
    vectors = torch.cat([torch.zeros(1, WIDTH), 20 * random_directions(9, WIDTH, "likelier")])
    found = judge.outcomes(llama, [added(after(1, vectors)).repeated(3)], len(vectors))
    expected = [
        [by_hand(llama, good, vector) < by_hand(llama, bad, vector) for good, bad in zip(WORDS.positive, WORDS.negative)]
        for vector in vectors
    ]
    assert found == expected
    assert judge.outcomes(llama, (), 1) == expected[:1]
    assert len({tuple(row) for row in expected}) > 2, "the vectors must matter"


@pytest.mark.parametrize(
    ("examples", "kind"),
    [
        (PROMPTS_ALONE, "refused"),
        (CHOICES, "chose as the positive examples"),
        (WORDS, "likelier as the positive examples"),
        (pairs(("Which?", "A)", "B)"), ("Which?", "A)", "neither")), "likelier as the positive examples"),
        (pairs(("Which?", "A book", "A boat")), "likelier as the positive examples"),
    ],
    ids=["prompts alone", "letters", "words", "a letter is missing", "articles"],
)
def test_auto_takes_what_the_examples_are_made_for(lettered, examples: ContrastSet, kind: str) -> None:
    assert measure(lettered, examples, Measured.auto, PLAIN, SPEECH).name == kind


def test_what_cannot_be_measured_is_refused(llama, lettered):
    with pytest.raises(UsageError, match=r"contrast\.measure=choice reads a letter"):
        measure(lettered, pairs(("Which?", "A)", "B)"), ("Which?", "neither", "A)")), Measured.choice, PLAIN, SPEECH)
    with pytest.raises(UsageError, match=r"contrast\.measure=choice reads a letter"):
        measure(lettered, PROMPTS_ALONE, Measured.choice, PLAIN, SPEECH)
    with pytest.raises(UsageError, match=r"contrast\.measure=likelihood compares two completions"):
        measure(lettered, PROMPTS_ALONE, Measured.likelihood, PLAIN, SPEECH)
    unpaired = ContrastSet(CHOICES.positive, CHOICES.negative[::-1])
    with pytest.raises(UsageError, match=r"tell what to learn and not what to ask"):
        measure(lettered, unpaired, Measured.auto, PLAIN, SPEECH)
    assert measure(lettered, unpaired, Measured.refusal, PLAIN, SPEECH).name == "refused"
    with pytest.raises(UsageError, match=r"No unsteered reply holds a letter"):
        measure(llama, CHOICES, Measured.choice, PLAIN, SPEECH)
