"""What the planning expert scores, beside random play: ``python examples/planner_scores.py --max-steps 500``.

For each game it records both with ``dream-env collect``, from the same seeds, cut off after the same number of steps, and adds
a row each to ``--results``. Recordings that are there already are not made again.

These are no scores to compare learners' with: the planner tries its actions in a copy of the emulator, and games that are
cut off have scored less than whole ones.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from runner import start

from dream_env.checkpoint import commit
from dream_env.collecting.collect import CollectConfig, collect
from dream_env.measuring import results
from dream_env.measuring.statistics import normalized_score, summarize
from dream_env.measuring.tables import interval, markdown, number
from dream_env.real.environments import environment_id, make_environment, protocol

EXPERTS = ("random", "planner")


@dataclass(frozen=True)
class Scores:
    """Which recordings."""

    games: tuple[str, ...] = ("beamrider", "breakout", "mspacman", "qbert", "seaquest", "spaceinvaders")
    """Games by short name."""
    episodes: int = 2
    """Games of the planner."""
    random_episodes: int = 10
    """Games of random play, which cost little."""
    max_steps: int | None = None
    """Steps after which a game is cut off; the emulator's own limit, half an hour, unless given. The
    planner makes five to ten steps a second."""
    seed: int = 0
    """Of the first game."""
    workers: int = 1
    """Processes that play at the same time."""
    results: Path = Path("examples/results/planner.csv")
    """File the rows are added to."""


def main(scores: Scores) -> None:
    """Record what is not there; write the rows, game by game."""
    for game in scores.games:
        results.append(scores.results, rows_of(scores, game))
    print(table(results.read(scores.results)))


def rows_of(scores: Scores, game: str) -> list[results.Row]:
    """Random play's and the planner's row."""
    recordings = {expert: _recording(scores, game, expert) for expert in EXPERTS}
    returns = {expert: _returns(recording) for expert, recording in recordings.items()}
    low, high = (float(np.mean(returns[expert])) for expert in EXPERTS)
    environment = make_environment(game, max_steps=scores.max_steps)
    facts = protocol(environment)
    environment.close()
    rows = []
    for expert in EXPERTS:
        summary = summarize(returns[expert])
        rows.append(
            results.Row(
                experiment="planner", environment=environment_id(game), dataset=recordings[expert].dataset_id, method=expert,
                episodes=summary.episodes, eval_seed=scores.seed, return_mean=summary.mean, return_iqm=summary.iqm,
                return_low=summary.low, return_high=summary.high, returns=tuple(returns[expert]),
                normalized=normalized_score(summary.mean, low, high), protocol=json.dumps(facts, sort_keys=True),
                command=shlex.join(["python", *sys.argv]), commit=commit(),
            )
        )  # fmt: skip
    return rows


def _recording(scores: Scores, game: str, expert: str) -> CollectConfig:
    episodes = scores.episodes if expert == "planner" else scores.random_episodes
    cut = f"-{scores.max_steps}" if scores.max_steps else ""
    return CollectConfig(
        game, f"scores/{game}/{expert}{cut}-v0", episodes, expert, seed=scores.seed, max_steps=scores.max_steps,
        workers=scores.workers,
    )  # fmt: skip


def _returns(recording: CollectConfig) -> list[float]:
    dataset = collect(recording, progress=sys.stdout.isatty())
    return [float(np.sum(episode.rewards)) for episode in dataset.iterate_episodes()]


def table(rows: Sequence[results.Row]) -> str:
    """A line a game and number of steps."""
    found: dict[tuple[str, int], dict[str, results.Row]] = {}
    for row in rows:
        facts = json.loads(row.protocol)
        found.setdefault((row.environment, facts["max_frames"] // facts["frame_skip"]), {})[row.method] = row
    lines = [
        (
            environment, f"{steps:,} steps", number(by["random"].return_mean),
            interval(min(by["random"].returns), max(by["random"].returns), 0), number(by["planner"].return_mean),
            interval(min(by["planner"].returns), max(by["planner"].returns), 0),
            f"{by['random'].episodes} and {by['planner'].episodes}",
        )
        for (environment, steps), by in sorted(found.items())
    ]  # fmt: skip
    head = ("environment", "cut off after", "random", "lowest … highest", "planner", "lowest … highest", "games")
    return markdown(head, lines)


if __name__ == "__main__":
    start(main, Scores)
