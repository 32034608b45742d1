"""Write the tables of the READMEs from the committed result files: ``python examples/readme_tables.py [--check]``.

What stands between ``<!-- results: NAME -->`` and ``<!-- end -->`` is replaced, in the README and in that of the results; with
``--check`` a difference is an error. ``NAME, in short`` is a table of the methods that the README compares, a line each. All
rows of ``speed.csv`` go to ``speed.md`` beside it.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import planner_scores
import pong_minutes

from dream_env.measuring import results
from dream_env.measuring.results import Row
from dream_env.measuring.study import labelled, name_of, score
from dream_env.measuring.tables import interval, markdown, number, results_table, rows_table

IN_SHORT = {
    "ditto": (
        "bc", "dbc", "dbc+updates", "gail", "gail+updates", "ditto-plain", "ditto-plain+updates", "ditto", "ditto+updates",
        "ppo", "ppo+updates", "ppo-anchor", "ppo-anchor+updates", "anchor+updates", "ditto-anchor", "ditto-anchor+updates",
        "gail-anchor+updates",
    ),
    "ditto_a3c": (
        "bc", "dbc", "gail-plain", "gail", "ditto-plain", "ditto", "ditto+play", "ppo", "ppo+play", "anchor", "ditto-anchor",
        "gail-anchor",
    ),
    "cmil": ("bc", "dbc", "vmail-offline", "cmil-offline", "vmail", "cmil", "pdac"),
}  # fmt: skip
"""Methods that the README shows, by result file: no ablations."""
DEMOS = {"ditto": (15, 4), "ditto_a3c": (15, 4), "cmil": (20, 9)}
"""Numbers of the expert's episodes that it shows, in this order; of robots, by task."""

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "examples" / "results"
sys.path.append(str(ROOT / "examples" / "benchmark"))

from speed_rows import read  # noqa: E402
from speed_tables import goals, loops  # noqa: E402


def grid_table(name: str) -> str:
    """A grid's result file as Markdown, its methods called what the grid, and the figures of ``dream-env report``, call them."""
    return rows_table(labelled(results.read(RESULTS / f"{name}.csv")))


def short_table(name: str) -> str:
    """A line for each of ``IN_SHORT`` and ``DEMOS``: IQM and interval of sampled and of likeliest actions side by side."""
    found: dict[tuple[str, str, int], dict[bool, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in results.read(RESULTS / f"{name}.csv"):
        usual = row.n_expert in DEMOS[name] and name_of(row) in IN_SHORT[name] and not row.select and not row.tail
        if usual or not row.trained:
            method, demos = (name_of(row), row.n_expert) if row.trained else (row.method, 0)
            found[row.environment, method, demos][row.deterministic].append(row)
    order = {method: i for i, method in enumerate(("random", "expert", *IN_SHORT[name]))}
    numbers = {demos: i for i, demos in enumerate((0, *DEMOS[name]))}
    places = {key: (key[0], numbers[key[2]], order[key[1]]) for key in found}
    lines = []
    for (environment, method, demos), by in sorted(found.items(), key=lambda item: places[item[0]]):
        of_policy = method in IN_SHORT[name]
        shown = {how: rows if of_policy else rows[:1] for how, rows in by.items()}  # everybody meets the same expert
        seeds = {how: len({row.seed for row in rows}) for how, rows in shown.items()}
        assert all(seeds[how] == len(rows) for how, rows in shown.items()), (environment, method)
        lines.append(
            (
                environment, method, str(demos or ""), str(seeds[False]) if of_policy else "",
                str(sum(row.episodes for row in shown[False])),
                *(_score(shown[how]) if how in shown else "" for how in (False, True)),
            )
        )  # fmt: skip
    return markdown(
        ("environment", "policy", "demos", "seeds", "games", "actions sampled", "the likeliest actions"), lines
    )


def _score(rows: Sequence[Row]) -> str:
    found = score(rows)
    return f"{number(found.iqm)} ({interval(found.low, found.high)})"


def tables() -> dict[str, str]:
    """Every table by the name in its marker."""
    found = {name: results_table([RESULTS / f"{name}.csv"]) for name in ("pong", "pong_short")}
    for name in IN_SHORT:
        found |= {name: grid_table(name), f"{name}, in short": short_table(name)}
    found["ditto_breakout_fire"] = grid_table("ditto_breakout_fire")
    found["planner"] = planner_scores.table(results.read(RESULTS / "planner.csv"))
    if (RESULTS / "pong_minutes.csv").is_file():
        found["pong_minutes"] = pong_minutes.table(pong_minutes.read(RESULTS / "pong_minutes.csv"))
    if (RESULTS / "speed.csv").is_file():
        found["speed"] = goals(read(RESULTS / "speed.csv"))
    return found


def written(text: str, made: dict[str, str]) -> str:
    """A README with its tables as they are made now."""
    unknown = set(re.findall(r"<!-- results: (.*?) -->", text)) - made.keys()
    if unknown:
        sys.exit(f"there is no table {', '.join(sorted(unknown))}; one of: {', '.join(made)}")
    for name, table in made.items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)
    return text


def files() -> dict[Path, str]:
    """What each file made here should hold."""
    made = tables()
    found = {path: written(path.read_text(), made) for path in (ROOT / "README.md", RESULTS / "README.md")}
    if (RESULTS / "speed.csv").is_file():
        found[RESULTS / "speed.md"] = loops(read(RESULTS / "speed.csv")) + "\n"
    return found


def main() -> None:
    """Rewrite or check them."""
    for path, text in files().items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{path.name} is not what the result files say; run python examples/readme_tables.py")


if __name__ == "__main__":
    main()
