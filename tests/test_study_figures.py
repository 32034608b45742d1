"""What the figures of a study show, read from the drawn lines; pixels would say no more than that something is there."""

from dataclasses import replace

import numpy as np
import pytest
from test_curves import POINT
from test_study import A3C, ROWS, SLIPS, level, trained

from dream_env.measuring import curves, results
from dream_env.measuring.statistics import iqm
from dream_env.measuring.study import Score, Study, comparisons, score
from dream_env.showing import study_figures
from dream_env.showing.drawing import COLOURS, GREEN, GREY
from dream_env.showing.study_figures import ablation_figure, looks, score_figure
from dream_env.showing.study_report import study_report

PONG, WALKER = "ALE/Pong-v5", "BipedalWalker-v3"


@pytest.fixture
def drawn(monkeypatch):
    """The figures by name, instead of files."""
    figures = {}

    def keep(figure, path):
        path.parent.mkdir(exist_ok=True)
        figures[path.stem] = figure
        return path

    monkeypatch.setattr(study_figures, "save", keep)
    return figures


def levels_of(panel):
    """Label → height of the level lines."""
    flat = [line for line in panel.lines if len(line.get_xdata()) == 2 and tuple(line.get_xdata()) == (0, 1)]
    return {line.get_label(): line.get_ydata()[0] for line in flat}


def lines_of(panel):
    """Label → x, y and the ends of the bars (n, 2) of the lines with bars."""
    found = {}
    for container in panel.containers:
        line, _, (bars,) = container.lines
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        found[container.get_label()] = (line.get_xdata(), line.get_ydata(), ends)
    return found


def test_points_are_iqms_with_their_intervals_beside_levels_that_are_iqms_too(tmp_path, drawn):
    results.write(tmp_path / "paper.csv", ROWS)
    study_report(tmp_path / "paper.csv")
    assert set(drawn) == {"by_demos", "by_demos_control", "by_horizon", "reward_ale_pong_v5_ditto_15_episodes"}
    one, three = drawn["by_demos"].axes
    assert set(lines_of(one)) == {"ditto", "anchor", "bc"}
    assert set(lines_of(three)) == {"ditto"}
    for panel, seeds, title in ((one, {0}, "seed 0 (n = 1)"), (three, {0, 1, 2}, "seeds 0, 1, 2 (n = 3)")):
        assert panel.get_title(loc="left") == f"{PONG}\n{title}"
        x, y, ends = lines_of(panel)["ditto"]
        np.testing.assert_allclose(x, [4, 15], rtol=0.1)
        for at, demos in enumerate((4, 15)):
            rows = [
                row for row in ROWS if row.experiment == "paper/ditto" and row.n_expert == demos and not row.options
            ]
            rows = [row for row in rows if not row.deterministic and row.seed in seeds]
            assert y[at] == pytest.approx(iqm(np.concatenate([row.returns for row in rows])), abs=1e-4)
            found = score(rows)
            np.testing.assert_allclose(ends[at], (found.low, found.high), atol=1e-4)
        assert levels_of(panel) == {"expert, IQM": 18.5, "random, IQM": -19.5}
    assert levels_of(drawn["by_demos_control"].axes[0]) == {"random, IQM": -99.5}
    x, y, _ = lines_of(drawn["by_horizon"].axes[0])["ditto, 15 episodes"]
    assert list(x) == [5, 15, 30]
    assert y[0] == pytest.approx(11.0, abs=1.0)
    (usual,) = [row for row in Study.read(tmp_path / "paper.csv").main() if (row.experiment, row.n_expert, row.seed) == (
        "paper/ditto", 15, 0
    )]  # fmt: skip
    assert y[1] == pytest.approx(iqm(usual.returns), abs=1e-4)  # the other horizons have no seeds 1 and 2


def test_each_variant_of_a_reward_is_a_point_beside_its_name(tmp_path, drawn):
    results.write(tmp_path / "paper.csv", ROWS)
    study = Study.read(tmp_path / "paper.csv")
    study_report(tmp_path / "paper.csv")
    (panel,) = drawn["reward_ale_pong_v5_ditto_15_episodes"].axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    (comparison,) = comparisons(study.rewards("ALE/Pong-v5")["ditto, 15 episodes"])
    groups = comparison.points
    assert drawn["reward_ale_pong_v5_ditto_15_episodes"].get_suptitle().endswith("\nseed 7 (n = 1)")
    assert names == [" ".join(value for _, value in options) for options in groups]
    for container, rows in zip(panel.containers, groups.values(), strict=True):
        line, _, (bars,) = container.lines
        found = score(rows)
        assert line.get_xdata()[0] == pytest.approx(found.iqm)
        np.testing.assert_allclose(
            bars.get_segments()[0][:, 0], (min(found.low, found.iqm), max(found.high, found.iqm))
        )


def test_a_variant_of_numbers_is_called_by_their_names(tmp_path, drawn):
    rows = [trained("a", 1.0, **{"ditto.width": 2.0}), trained("b", 2.0, **{"ditto.width": 10 / 3})]
    results.write(tmp_path / "paper.csv", [*rows, trained("ditto", 1.0)])
    text = study_report(tmp_path / "paper.csv").read_text()
    (figure,) = [figure for name, figure in drawn.items() if name.startswith("reward")]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "width=2",
        "width=3.33333",
        "width=None",
    ]
    assert "| 3.33333 | " in text


def test_a_legend_and_a_title_hide_nothing_of_an_ablation(tmp_path, drawn):
    groups = {f"a variant with a long name, {i}": [trained("a", 10.0 * i)] for i in range(9)}
    ablation_figure(groups, {"expert": 18.5, "random": -19.5}, f"{PONG}, a method, 15 episodes", tmp_path / "some.png")
    (panel,), (legend,) = drawn["some"].axes, drawn["some"].legends
    assert panel.get_legend() is None
    assert [text.get_text() for text in legend.get_texts()] == ["expert, IQM", "random, IQM"]
    drawn["some"].canvas.draw()
    drawn["some"].canvas.draw()  # the second time all has its place
    box, beside = legend.get_window_extent(), panel.get_tightbbox()
    assert 0.0 <= box.y0 < box.y1 <= beside.y0  # in the figure, and below the panel with its ticks and their names
    title = drawn["some"]._suptitle.get_window_extent()
    assert 0.0 <= title.x0 < title.x1 <= drawn["some"].bbox.width
    assert beside.y1 <= title.y0


def test_a_bar_ends_at_its_point_where_the_interval_does_not_reach_it(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(study_figures, "score", lambda rows: Score(iqm=5.0, low=6.0, high=8.0, seeds=1))
    lines = {"a": {15.0: [trained("a", 5.0)]}}
    score_figure({PONG: lines}, looks("a"), {}, "episodes", tmp_path / "one.png")
    ((_, (y,), (bar,)),) = lines_of(drawn["one"].axes[0]).values()
    assert (y, *bar) == (5.0, 5.0, 8.0)


def test_each_data_set_s_expert_has_a_line_and_through_training_its_own_mean(tmp_path, drawn):
    rows = [
        level("random", -20.0), level("expert", 18.0), level("expert", 14.0, dataset=A3C),
        *(trained("bc", 1.0, method="bc", learner="", dataset=dataset) for dataset in (SLIPS, A3C)),
    ]  # fmt: skip
    results.write(tmp_path / "paper.csv", rows)
    points = [
        replace(POINT, dataset=dataset, method="bc", steps=steps, return_mean=float(steps + shift))
        for dataset, shift in ((SLIPS, 0), (A3C, 5))
        for steps in (0, 10)
    ]
    curves.append(curves.beside(tmp_path / "paper.csv"), points)
    text = study_report(tmp_path / "paper.csv").read_text()
    (panel,) = drawn["by_demos"].axes
    assert levels_of(panel) == {f"expert ({SLIPS}), IQM": 18.5, f"expert ({A3C}), IQM": 14.5, "random, IQM": -19.5}
    drawn_levels = [line for line in panel.lines if line.get_label() in levels_of(panel)]
    assert [line.get_color() for line in drawn_levels] == [GREEN, GREEN, GREY]
    assert drawn_levels[0].get_linestyle() != drawn_levels[1].get_linestyle()
    for name, expert, returns in ((SLIPS, 18.0, [0, 10]), (A3C, 14.0, [5, 15])):
        figure = f"through_training_pong_{name.replace('/', '-')}_15"
        assert f"![pong, 15 expert episodes of {name}]({figure}.png)" in text
        panel = drawn[figure].axes[2]
        assert levels_of(panel) == {"expert, mean": expert, "random, mean": -20.0}
        (line,) = [line for line in panel.lines if line.get_label() == "bc (n = 1)"]
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 10], returns)  # and not of both together


def test_the_report_says_what_latent_distances_compare(tmp_path):
    results.write(tmp_path / "paper.csv", ROWS)
    points = [replace(POINT, method="ditto", steps=steps) for steps in (0, 10)]
    curves.append(curves.beside(tmp_path / "paper.csv"), points)
    assert "it compares runs of one horizon only" in study_report(tmp_path / "paper.csv").read_text()


def test_sixteen_lines_and_more_have_different_colours(tmp_path, drawn):
    names = [f"method-{i}" for i in range(len(COLOURS))]
    assert len(names) >= 16
    lines = {name: {15.0: [trained(name, float(i))]} for i, name in enumerate(names)}
    score_figure({PONG: lines}, looks(names), {}, "episodes", tmp_path / "many.png")
    (panel,) = drawn["many"].axes
    assert len({container.lines[0].get_color() for container in panel.containers}) == len(names)
    x = [container.lines[0].get_xdata()[0] for container in panel.containers]
    assert len(set(x)) == len(names)
    np.testing.assert_allclose(x, 15.0, rtol=0.11)  # beside one another, and nearer to their tick than to the next
    drawn["many"].canvas.draw()
    box = drawn["many"].legends[0].get_window_extent()
    assert 0 <= box.y0 < box.y1 <= drawn["many"].bbox.height  # every name is to be read
    more = looks([*names, "one", "two"])
    assert more["one"]["linestyle"] != more[names[0]]["linestyle"]


def test_bands_are_standard_errors_of_a_sample_and_one_seed_has_none(drawn, tmp_path):
    results.write(tmp_path / "paper.csv", ROWS)
    points = [replace(POINT, seed=seed, steps=100, return_mean=of) for seed, of in ((0, -20.0), (1, 20.0))]
    points.append(replace(POINT, seed=0, steps=200, return_mean=5.0))
    at, mean, error = study_figures._mean_curve(points, "return_mean")
    assert (list(at), list(mean)) == ([100, 200], [0.0, 5.0])
    assert list(error) == pytest.approx([20.0, 0.0])  # √(((−20)² + 20²) / (2 − 1)) / √2


def test_policies_that_played_other_games_have_a_figure_of_their_own(drawn, tmp_path):
    results.write(tmp_path / "paper.csv", ROWS)
    points = [replace(POINT, steps=at, protocol=of) for at in (1, 2) for of in ("Pong whole", "Pong cut")]
    curves.append(curves.beside(tmp_path / "paper.csv"), points)
    study_report(tmp_path / "paper.csv")
    titles = {
        name: [panel.get_title(loc="left") for panel in of.axes] for name, of in drawn.items() if "through" in name
    }
    assert len(titles) == 2
    for of, found in zip(("Pong whole", "Pong cut"), titles.values(), strict=True):
        assert all(of in title for title in found)
