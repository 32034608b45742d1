"""README's first two commands, shortened: an agent learns in the dream that comes with the package and plays the real Pong."""

from dream_env import cli
from dream_env.agent import load_agent, world_model_of
from dream_env.checkpoint import read_json
from dream_env.measuring import results


def test_an_agent_of_the_shipped_dream_plays_the_real_game(tmp_path, capsys):
    out = tmp_path / "first"
    learn = ["--warm-start", "bc", "--anchor", "4", "--warm-start-updates", "20", "--num-envs", "8", "--steps", "240"]
    cli.main(["imitate", "shipped:pong", *learn, "--out", str(out)])
    assert world_model_of(out) == "shipped:pong"
    assert load_agent(out).world_model.source.environment == "ALE/Pong-v5"
    assert read_json(out / "meta.json")["demos"] == 6
    cli.main(["evaluate", str(out), "--episodes", "1", "--snapshot-episodes", "0", "--no-video"])
    rows = results.read(out / "evaluation.csv")
    assert [(row.method, row.deterministic) for row in rows] == [
        ("random", False), ("expert", False), ("ditto", False), ("ditto", True),
    ]  # fmt: skip
    assert all(-21 <= row.return_mean <= 21 for row in rows)
    assert "ditto + ppo from bc" in " ".join(capsys.readouterr().out.split())
