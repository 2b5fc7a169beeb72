"""The report of a run: `report.json` for programs, `report.md` and a table on the screen for people.

Nouns: a report is a dict of `seconds`, `bill`, `evaluation` (a summary by model name) and what else the run has to say
of itself: its machine, commit, settings. Knows no model and no stage.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gorae.evals.curves import PICTURES
from gorae.observe import Bill, format_seconds, replace_text

_NOTE = (
    "pass@1 is the mean over items of the share of correct samples, with its 95% bootstrap interval over items; "
    "majority@n takes the most frequent answer of the n samples of an item; pass@n is the chance that one of them is "
    "correct; length is in tokens a reply. Language is the share of a reply's letters in that of its prompt, a reply "
    "without letters being consistent; reward is the mean, where that is not pass@1."
)
_HEADINGS = {  # as they are on the screen
    "95% ": "95%\n",
    "majority@": "maj@",
    "language": "lang",
    "cut off": "cut\noff",
    "not graded": "not\ngraded",
}


def write_report(
    folder: Path | str,
    evaluation: Mapping[str, dict[str, Any]],
    *,
    bill: Bill,
    seconds: float,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `report.json` and `report.md` into `folder` and return the report.

    `extra` holds further sections by name, such as machine, commit and settings. Pictures that `draw_curves` left in
    the folder are shown in `report.md`. Raises ValueError if an extra section takes the name of one of ours.
    """
    report = {"seconds": seconds, "bill": bill.as_dict(), "evaluation": dict(evaluation)}
    taken = sorted(report.keys() & extra.keys())
    if taken:
        raise ValueError(f"extra={taken} would replace sections of the report; give them other names")
    report |= extra
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "report.md", "\n".join(_markdown(folder, report, bill=bill)))
    replace_text(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return report


def print_table(evaluation: Mapping[str, dict[str, Any]], console: Console | None = None) -> None:
    """Print the summaries of the models, one a row, on the screen, and the hashes of the items they were asked."""
    asked = {(one["items"], one["items_sha256"]): None for one in evaluation.values() if "items_sha256" in one}
    columns = [cells for cells in zip(*_rows(evaluation), strict=True) if not asked or cells[0] != "items"]
    header, *rows = zip(*columns, strict=True)
    # Narrow headings, no percent signs, one space between columns: a terminal of 80 columns holds the recipe's table,
    # one of 100 a task's.
    layout: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": 0}
    table = Table(
        title="Evaluation, shares in %", caption=_NOTE, title_justify="left", caption_justify="left", **layout
    )
    for number, column in enumerate(header):
        for words, narrow in _HEADINGS.items():
            column = column.replace(words, narrow)
        table.add_column(column, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("%", "") for cell in row))
    console = console or Console()
    console.print(table)
    for items, digest in asked:
        console.print(f"{items} items, SHA-256 {digest}", highlight=False, soft_wrap=True)


def evaluation_markdown(evaluation: Mapping[str, dict[str, Any]]) -> str:
    """The summaries of the models as a Markdown table, with a note on what the columns mean."""
    header, *rows = _rows(evaluation)
    rule = ("---", *["---:"] * (len(header) - 1))
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows)) + f"\n\n{_NOTE}\n"


def _rows(evaluation: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The heading, then a row for each model; a column that says nothing of any model is left out."""
    columns = {model: _columns(summary) for model, summary in evaluation.items()}
    names = sorted({(place, name) for cells in columns.values() for place, name in cells})
    yield ("model", *(name for _, name in names))
    for model, cells in columns.items():
        yield (model, *(cells.get(name, "–") for name in names))


def _columns(summary: Mapping[str, Any]) -> dict[tuple[int, str], str]:
    """The cells of a row by the place and the name of their column."""
    cells = {(3, "pass@1"): _percent(summary["pass_at_1"]), (4, "95% interval"): _interval(summary["ci95"])}
    if summary.get("reward", summary["pass_at_1"]) != summary["pass_at_1"]:
        cells |= {(1, "reward"): f"{summary['reward']:.3f}"}
        cells |= {(2, "95%"): "–".join(f"{end:.2f}" for end in summary["reward_ci95"])}
    else:
        cells |= {(7, name): _percent(one["pass_at_1"]) for name, one in summary["by_language"].items()}
    majorities = (name for name in summary if name.startswith("majority_at_"))
    cells |= {(5, name.replace("_at_", "@")): _percent(summary[name]) for name in majorities}
    most = max(map(int, summary.get("pass_at_k", ["1"])))
    if most > 1:
        cells |= {(6, f"pass@{most}"): _percent(summary["pass_at_k"][str(most)])}
    shares = {(8, "language"): "consistency", (10, "cut off"): "clipped_ratio"}
    shares |= {(11, "not graded"): "grader_errors"} if summary.get("grader_errors") else {}
    cells |= {place: _percent(summary[name]) for place, name in shares.items() if summary.get(name) is not None}
    return cells | {(9, "length"): f"{summary['mean_length']:.1f}", (12, "items"): str(summary["items"])}


def _interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f}–{_percent(ends[1])}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _markdown(folder: Path, report: Mapping[str, Any], *, bill: Bill) -> Iterator[str]:
    yield f"# Report\n\nMade in {format_seconds(report['seconds'])}.\n"
    yield f"## Evaluation\n\n{evaluation_markdown(report['evaluation'])}"
    pictures = [name for name in PICTURES if (folder / name).exists()]
    if pictures:
        yield "## Curves\n\n" + "\n".join(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in pictures) + "\n"
    yield f"## Bill\n\n{bill.markdown()}"
    for name in report:
        if name not in ("seconds", "bill", "evaluation"):
            yield f"## {name.replace('_', ' ').capitalize()}\n\n{_section(report[name])}\n"


def _section(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"```json\n{json.dumps(value, indent=2, ensure_ascii=False)}\n```"
