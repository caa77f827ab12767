"""The table of docs/payments.md: what a notice does to a payment in a state, from ``decide``."""

from pathlib import Path

from shared.payments.states import ALLOWED, decide

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "payments.md"
BEGIN, END = "<!-- outcomes -->", "<!-- /outcomes -->"
WORDS = (
    "waiting",
    "confirming",
    "confirmed",
    "sending",
    "partially_paid",
    "finished",
    "failed",
    "refunded",
    "expired",
)
UNKNOWN = "a word that no document names"


def render() -> str:
    """Return the table: a row for each state, a column for each word of a notice."""
    heads = [r"payment \ notice", *WORDS, "another word"]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for state in ALLOWED:
        moves = [decide(state, word).value for word in (*WORDS, UNKNOWN)]
        lines.append(_line([state, *moves]))
    return "\n".join(lines)


def documented() -> str:
    """Return the table as the document has it."""
    text = DOCUMENT.read_text()
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
