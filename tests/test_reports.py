"""What the reports say of a reply is how it came about."""

from dataclasses import replace

import pytest
from test_html import small_record

from discover.report.html import html_report
from discover.report.markdown import markdown_report
from discover.report.record import Record
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
    assert 'unsteered, its first token forced to <bdi class="token"> HATE</bdi>' in card
