import csv

import cv2
import numpy as np
import pytest
from agents import linear_agent, pong_model, short_pong
from test_results import row

from dream_env.checkpoint import write_json
from dream_env.errors import CheckpointError, ConfigError, DatasetError, SpaceError
from dream_env.measuring import results
from dream_env.measuring.statistics import bootstrap_interval
from dream_env.measuring.video import agent_video, open_loop_video, write_video
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult
from dream_env.showing import report as showing
from dream_env.showing.figures import fit_figure
from dream_env.showing.report import report, results_table
from dream_env.tiny import tiny_demos, tiny_world_model

FIT = """update,loss,unexplained/image,unexplained_moving/image,kl_prior,prior_entropy,open_loop_1/image,minutes
50,200,0.95,0.99,1,35,,1
100,180,0.5,0.6,2,20,0.6,2
"""
IMITATE = """steps,dream_reward,latent_distance,action_agreement,minutes
0,,0.2,0.3,0
7680,0.8,,,1
15360,0.85,0.1,0.6,2
"""
STEPS = "step,expert,random,learner\n1,0.98,0.96,0.97\n2,0.97,0.93,0.95\n"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "pong"
    (folder / "wm").mkdir(parents=True)
    (folder / "ditto").mkdir()
    write_json(folder / "wm" / "run.json", {"stage": "fit"})
    (folder / "wm" / "metrics.csv").write_text(FIT)
    write_json(folder / "ditto" / "run.json", {"stage": "imitate"})
    (folder / "ditto" / "metrics.csv").write_text(IMITATE)
    (folder / "ditto" / "reward_by_step.csv").write_text(STEPS)
    rows = [
        row(method="random", learner="", warm_start="", deterministic=False, return_mean=-20.5, returns=(-21.0, -20.0)),
        row(method="expert", learner="", warm_start="", deterministic=False, return_mean=18.0, returns=(17.0, 19.0)),
        row(deterministic=False, return_mean=15.25, normalized=0.93),
        row(deterministic=True),
    ]
    results.write(folder / "ditto" / "evaluation.csv", rows)
    log = GameLog(folder / "ditto" / "episodes.csv")
    for steps, value in ((0, -21.0), (15360, 12.0)):
        for seed in (1, 2):
            log.add(f"after {steps}", steps, False, EpisodeResult(seed, value + seed, 100))
    return folder


def test_report_draws_every_curve_and_links_what_there_is(run):
    text = report(run, progress=False).read_text()
    for name in ("wm/fit.png", "ditto/imitate.png", "ditto/reward_by_step.png"):
        assert f"]({name})" in text
        assert cv2.imread(str(run / name)).std() > 5  # something is drawn
    assert "open_loop.mp4" not in text  # it is not there
    assert "| ditto + ppo from bc | argmax | 3 | 19.0 | 19.5 | 18.0 … 21.0 | 1.05 |" in text
    assert "| random | sampled | 3 | −20.5 |" in text


def test_levels_beside_the_curve_are_of_its_own_kind(run, monkeypatch):
    asked = {}
    monkeypatch.setattr(showing, "imitate_figure", lambda rows, path, **options: asked.update(options) or path)
    report(run, progress=False)
    assert (asked["random"], asked["expert"]) == (19.5, 19.5)  # IQMs of the rows, whose means are -20.5 and 18


def test_report_prints_the_table(run, capsys):
    report(run)
    printed = capsys.readouterr().out
    assert "95 % interval" in printed
    assert "ditto + ppo from bc" in printed


def test_report_of_an_unfinished_run_shows_what_there_is(run):
    for path in (run / "ditto").iterdir():
        path.unlink()
    assert "fit.png" in report(run, progress=False).read_text()


def test_report_with_another_seed_draws_the_interval_anew(run):
    low, high = bootstrap_interval((17.0, 19.0, 21.0), seed=5)
    text = report(run, seed=5, progress=False).read_text()
    assert f"| {low:.1f} … {high:.1f} |" in text


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no stage of a run"):
        report(tmp_path)


def test_first_row_of_a_training_can_be_drawn_already(tmp_path):
    row = {"update": 50.0, "loss": 1.0, "unexplained/state": 0.9, "kl_prior": 1.0, "minutes": 0.1}
    assert fit_figure([row], tmp_path / "fit.png").is_file()


def test_figure_without_rows_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"no rows to draw fit.png"):
        fit_figure([], tmp_path / "fit.png")


# ---------------------------------------------------------------------------------- offline metrics against real returns


@pytest.fixture
def longer_run(run):
    """Six policies kept on the way: the better they play, the nearer they are to the expert, but for one pair."""
    lines = ["steps,dream_reward,latent_distance,action_agreement,minutes"]
    log = GameLog(run / "ditto" / "episodes.csv")
    log.episodes.clear()
    for i, distance in enumerate((0.9, 0.8, 0.7, 0.5, 0.6, 0.4)):
        lines.append(f"{1000 * i},{0.1 * i if i else ''},{distance},0.5,{i}")
        log.add(f"after {1000 * i}", 1000 * i, False, EpisodeResult(1, float(i), 100))
    (run / "ditto" / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run


def test_report_tells_how_metrics_and_returns_go_together(longer_run):
    text = report(longer_run, progress=False).read_text()
    rho = -(1 - 6 * 2 / (6 * 35))  # one neighbouring pair changed places
    with (longer_run / "ditto/correlations.csv").open(newline="") as file:
        lines = {line["metric"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["latent_distance", "dream_reward"]  # the agreement never changes: there is no correlation
    assert float(lines["latent_distance"]["spearman"]) == pytest.approx(rho, abs=1e-5)
    assert float(lines["latent_distance"]["low"]) < rho < float(lines["latent_distance"]["high"]) < 0
    assert (lines["latent_distance"]["policies"], lines["dream_reward"]["policies"]) == ("6", "5")
    assert "| latent_distance | 6 | −0.94 | " in text
    assert "| dream_reward | 5 | 1.00 | " in text
    assert "](ditto/correlations.png)" in text
    assert cv2.imread(str(longer_run / "ditto/correlations.png")).std() > 5


def test_two_policies_make_no_correlation(run):
    assert "Rank correlation" not in report(run, progress=False).read_text()
    assert not (run / "ditto" / "correlations.csv").exists()


def test_selected_policy_is_named_in_the_table(run):
    rows = [*results.read(run / "ditto/evaluation.csv"), row(options='{"select": "latent_distance", "space": "both"}')]
    results.write(run / "ditto/evaluation.csv", rows)
    text = report(run, progress=False).read_text()
    assert "| ditto + ppo from bc by latent_distance | argmax |" in text
    assert "| ditto + ppo from bc | argmax |" in text


# ------------------------------------------------------------------------------------------------- tables over seeds


def test_results_table_has_one_line_for_each_way_to_act_over_all_seeds(tmp_path):
    random = {"method": "random", "learner": "", "warm_start": "", "return_mean": -20.5, "returns": (-21.0, -20.0)}
    for seed, mean in ((1, 18.0), (2, 20.0)):
        results.append(tmp_path / f"{seed}.csv", [
            row(seed=seed, return_mean=mean, returns=(mean - 1, mean, mean + 1), normalized=mean / 20),
            row(seed=seed, **random, deterministic=False, normalized=0.0),
        ])  # fmt: skip
    table = results_table([tmp_path / "1.csv", tmp_path / "2.csv"]).splitlines()
    assert len(table) == 4
    assert table[2].startswith("| ALE/Pong-v5 | random | sampled |  |  | 3 | −20.5 | −20.5 |")  # the same games, once
    assert table[3].startswith("| ALE/Pong-v5 | ditto + ppo from bc | argmax | 18 | 2 | 6 | 19.0 |")
    assert table[3].endswith("| 0.95 | 42 |")


def test_random_games_that_begin_as_others_do_are_the_same_ones(tmp_path):
    of = {"method": "random", "learner": "", "warm_start": "", "deterministic": False, "n_expert": 0}
    results.append(tmp_path / "a.csv", [
        row(**of, seed=1, returns=(-21.0, -20.0), episodes=2), row(**of, seed=2, returns=(-21.0, -20.0, -19.0), episodes=3),
        row(**of, seed=3, returns=(-21.0,), episodes=1), row(**of, eval_seed=7, returns=(-21.0, -20.0), episodes=2),
    ])  # fmt: skip
    (line,) = results_table([tmp_path / "a.csv"]).splitlines()[2:]
    assert "| 5 |" in line


def test_a_planner_was_not_trained(tmp_path):
    assert not row(method="planner", learner="", warm_start="", n_expert=0).trained


def test_warm_and_cold_starts_are_never_put_together(tmp_path):
    results.append(tmp_path / "a.csv", [row(warm_start="bc"), row(warm_start="none")])
    assert len(results_table([tmp_path / "a.csv"]).splitlines()) == 4


# ----------------------------------------------------------------------------------------------------------- videos


def frames_of(path):
    reader = cv2.VideoCapture(str(path))
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1])
    code = int(reader.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    reader.release()
    return frames, code


def test_open_loop_video_shows_truth_dream_and_difference(tmp_path):
    path = tmp_path / "open_loop.mp4"
    open_loop_video(tiny_world_model(), tiny_demos(steps=30).episode(0), path, context=3, horizon=7, windows=2)
    frames, codec = frames_of(path)
    assert len(frames) == 10
    assert codec in ("h264", "avc1")
    height, width = frames[0].shape[:2]
    assert width == 3 * (256 + 8)
    assert height == 2 * (256 + 8) + 24
    assert height % 2 == width % 2 == 0


def test_truth_in_the_video_is_the_recording(tmp_path):
    episode = tiny_demos(steps=9).episode(0)
    path = open_loop_video(tiny_world_model(), episode, tmp_path / "a.mp4", context=3, horizon=7, windows=1)
    frames, _ = frames_of(path)
    for t in (0, 9):
        shown = frames[t][24 : 24 + 256, :256, 0].reshape(16, 16, 16, 16).mean(axis=(1, 3))
        np.testing.assert_allclose(shown, episode.obs["image"][t][..., 0], atol=12)


def test_episode_too_short_for_the_video_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has 10 frames; context and horizon need 50"):
        open_loop_video(tiny_world_model(), tiny_demos(steps=9).episode(0), tmp_path / "a.mp4")


def test_model_without_pictures_has_no_video(tmp_path):
    from gymnasium import spaces

    world_model = tiny_world_model(observation_space=spaces.Box(-1, 1, (3,)))
    with pytest.raises(SpaceError, match="no picture"):
        open_loop_video(world_model, tiny_demos(steps=60).episode(0), tmp_path / "a.mp4")


@pytest.mark.parametrize("render_mode", ["rgb_array", None])
def test_agent_video_shows_one_whole_game(tmp_path, render_mode):
    environment = short_pong(render_mode=render_mode)
    path = agent_video(linear_agent(pong_model()), environment, tmp_path / "agent.mp4", seed=2)
    frames, _ = frames_of(path)
    assert 10 < len(frames) <= 21  # the first observation, and one a step
    assert frames[0].std() > 5


def test_video_that_fails_half_way_leaves_nothing(tmp_path):
    def broken():
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_video(broken(), tmp_path / "a.mp4", fps=10)
    assert list(tmp_path.iterdir()) == []


def test_odd_sizes_are_made_even(tmp_path):
    path = write_video([np.zeros((33, 47, 3), np.uint8)] * 3, tmp_path / "a.mp4", fps=10)
    assert frames_of(path)[0][0].shape == (34, 48, 3)
