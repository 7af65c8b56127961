"""What the reports say of a reply is how it came about."""

from dataclasses import replace

import pytest
from test_html import small_record, used_record

from discover.model.anatomy import Place, Site
from discover.report.html import html_report
from discover.report.markdown import markdown_report
from discover.report.record import Record, acting, read_at
from discover.report.terminal import terminal_report


@pytest.fixture
def made() -> Record:
    bare = small_record()
    return replace(bare, bank=replace(bare.bank, origin={"solver": "fixed_point", "seed": 0}))


def lines_with(text: str, report: str) -> list[int]:
    return [number for number, line in enumerate(report.splitlines()) if text in line]


def test_what_no_vector_made_the_model_say_is_marked_so(made: Record, tmp_path) -> None:
    terminal = terminal_report(made, tmp_path)
    (line,) = [line for line in terminal.splitlines() if "I hate your sums." in line]
    assert line.endswith('I hate your sums. (unsteered, from " HATE")')
    assert terminal.count("(unsteered") == 1, "what vectors made it say is not"

    markdown = markdown_report(made)
    assert markdown.count('unsteered, from " HATE"') == 1
    place = lines_with('unsteered, from " HATE"', markdown)[0]
    assert place == lines_with("    I hate your sums.", markdown)[0] + 2

    card = html_report(made).split('id="mode-3"')[1].split("</article>")[0]
    assert 'unsteered, from <bdi class="token"> HATE</bdi>' in card


@pytest.mark.parametrize(
    "places,origin,told",
    [
        ([Place(3, Site.residual)], {}, "8 vectors of norm {} after block 3,"),
        ([Place(2, Site.mlp)], {"perturbation": "adapter"}, "8 adapters of norm {} on the mlp output of block 2,"),
        (
            [Place(2, Site.attention), Place(3, Site.attention)],
            {"perturbation": "factor"},
            "8 factors of norm {} on the attention output of blocks 2 to 3,",
        ),
        ([Place(1, Site.attention)], {"perturbation": "head"}, "8 head vectors of norm {} on the attention output of block 1,"),
    ],
)
def test_what_was_learned_is_called_by_its_name(made: Record, tmp_path, places, origin, told) -> None:
    changes = tuple(replace(made.bank.perturbations.changes[0], place=place) for place in places)
    bank = replace(
        made.bank, perturbations=replace(made.bank.perturbations, changes=changes), origin={**made.bank.origin, **origin}
    )
    one = replace(made, bank=bank)
    size = f"12.5 ({bank.relative_radius:.2f} of the residual stream's)"
    assert told.format(size) in terminal_report(one, tmp_path).replace("\n", " ")
    assert one.learned in html_report(one) and acting(bank) in markdown_report(one)


def test_where_effects_were_read_is_told(made: Record) -> None:
    def read(**origin) -> str:
        return read_at(replace(made.bank, origin=origin))

    assert read(reply_tokens=4) == "read after block 6, half of them up to 4 tokens into the reply"
    assert read(span=[-1, 0]) == "read after block 6, at positions -1 to 0 (-1 is the prompt's last token)"
    assert read(target="logits") == "read from the logits"
    assert read(target="attention", span=[]) == "read from the attention of block 6"


def test_uses_and_likeness_stand_in_every_report(tmp_path) -> None:
    bare = used_record()
    one = replace(bare, bank=replace(bare.bank, origin={"solver": "fixed_point", "seed": 0}))
    terminal, markdown = terminal_report(one, tmp_path), markdown_report(one)
    told = (
        "elsewhere   finding 1, vector 2; other prompts that show it at 1: 9/10 (60-98 %), random 1/20 (1-24 %), by itself 0/10"
    )
    assert told in terminal
    assert "triggers that show it at -1: 10/10 (72-100 %)" in terminal
    assert "likeness    heads: largest cosine -0.70 of effects (vector 7)\n" in terminal + "\n"
    assert "| 1 | vector 2 | 9/10 (60-98 %) | 1/10 (2-40 %) | 5/10 (24-76 %) |" in markdown
    assert "| multiplier |  | other prompts that show it |\n" in markdown, "the second finding was asked no more"
    assert "| 7 | -0.700 | 0.000 |" not in markdown and "| 0 | -0.700 | 0.000 |" in markdown
    for text in ("On other prompts", "Likeness to known directions"):
        assert text in markdown and text not in markdown_report(replace(one, uses=[], likenesses=[]))
