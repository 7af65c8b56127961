"""What stands for a mode on its card."""

from dataclasses import replace

from test_html import completion, finding, own_reply, read_record, record, small_record

from discover.read.modes import Mode
from discover.report.cards import cards
from discover.report.html import html_report


def test_the_medoid_stands_first_and_what_was_drawn_beside_it() -> None:
    said = [own_reply(), *(completion(text, vector=vector) for vector, text in enumerate(("first", "medoid", "drawn", "medoid")))]
    modes = [Mode("medoid", "coherent", (), (1, 2, 3, 4), (2, 3, 4), None)]
    (card,) = cards(record(said, modes, [finding(0, "finding", (0, 1, 2, 3), 8, 1, "first")]), ("finding",))
    assert (card.first.text, card.vector) == ("medoid", 1)
    assert [one.text for one in card.drawn] == ["drawn"] and card.repeated == 1


def test_a_fragment_shows_what_the_unsteered_model_says_and_what_its_vector_boosts() -> None:
    (_, card) = cards(read_record(small_record()), ("finding", "fragment"))
    assert card.first.opening == " HATE" and card.vector is None
    once = {boost.token: boost for boost in reversed(read_record(small_record()).glances[3].boosted)}
    assert set(card.boosted) == set(once.values())


def test_a_token_is_named_once_and_the_lens_is_that_of_the_target() -> None:
    made = read_record(small_record())
    boosts = made.glances[0].boosted
    twice = replace(made.glances[0], boosted=(boosts[0], replace(boosts[0], position=1, gain=0.1), *boosts[1:]))
    lens = ((4, ("early",)), (6, ("target",)), (7, ("late",)))
    changed = replace(made, glances=[twice], decodings=[replace(made.decodings[0], lens=lens)])
    card = cards(changed, ("finding",))[0]
    assert len({one.token for one in card.boosted}) == len(card.boosted) and card.boosted[0].gain == boosts[0].gain
    assert card.lens == ("target",)
    without = replace(changed, decodings=[replace(made.decodings[0], lens=lens[:1])])
    assert cards(without, ("finding",))[0].lens == ("early",)


def test_a_name_that_a_language_model_gave_is_marked_as_such() -> None:
    made = small_record()
    named = replace(made, modes=[replace(mode, named="about <b>cheese</b>") for mode in made.modes])
    page = html_report(named)
    assert "A language model calls it <q><bdi>about &lt;b&gt;cheese&lt;/b&gt;</bdi></q>" in page
    assert "A language model" not in html_report(made)


def test_steerable_modes_have_cards_that_are_folded_away() -> None:
    made = small_record()
    page = html_report(replace(made, findings=[replace(made.findings[0], verdict="steerable", level=None), *made.findings[1:]]))
    assert "1 steerable mode: coherent, not beyond the null" in page
    assert '<span class="level steerable">steerable</span>' in page
