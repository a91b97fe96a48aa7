"""A run that is looked at: far or near, going on or ended, with a file that another process appends to."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import pytest
from small_training import make_features, make_shards, tokenizer_config

from deltactl.claims import FOLDER, hold, writers
from deltactl.configs.show import to_yaml
from deltactl.errors import ArtifactError, DamagedError
from deltactl.locations import Location
from deltactl.train.callbacks.tracking import MetricsLogger
from deltactl.train.run import train
from deltactl.watch.curves import MOST_POINTS, Curves
from deltactl.watch.figures import FIGURES
from deltactl.watch.follow import moments
from deltactl.watch.state import Moment, Watch

ROOT = Path(__file__).parents[2]


def make_run(root: Path, **settings: object) -> Location:
    """Return a folder that has the settings of a run, and nothing else."""
    run = Location.of(root)
    values = {"steps": 1000, "effective_batch": 8, "batch_size": 8, "warmup_steps": 100, "log_every": 10, **settings}
    (run / "config.yaml").write_bytes(to_yaml(tokenizer_config("features", root, **values), "tokenizer").encode())
    return run


def write(run: Location, text: str) -> None:
    (run / "metrics.csv").write_bytes(text.replace("\n", "\r\n").encode())


def append(run: Location, text: str) -> None:
    with (run / "metrics.csv").path.open("a", newline="") as file:
        file.write(text)


def values(moment: Moment, column: str = "train/loss") -> list[tuple[float, float]]:
    return [(point.step, point.mean) for point in moment.curves.by_name[column].points]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tokenizer that has ended."""
    root = tmp_path_factory.mktemp("watched")
    features = make_features(make_shards(root / "shards"), root / "features")
    train(tokenizer_config(features, root / "run", steps=20, validate_every=10, checkpoint_every=20), "run")
    return root / "run"


def test_a_run_that_was_trained_is_finished_and_has_its_figures(trained: Path) -> None:
    moment = Watch(Location.of(trained)).look()
    assert (moment.state, moment.plan.stage, moment.plan.steps, moment.share) == ("finished", "tokenizer", 20, 1.0)
    assert moment.progress() == "step 20 of 20, 100.0 %"
    assert moment.curves.newest("train/samples_per_second") == 8 * (moment.steps_per_second or 0)
    assert (moment.seconds_left, moment.note()) == (None, "")
    assert [step for step, _ in values(moment)] == [5, 10, 15, 20]
    assert [step for step, _ in values(moment, "validation/loss")] == [10, 20]
    columns = [each.column for each in moment.readings]
    assert columns[:2] == ["train/loss", "train/lr"]
    assert {"health/z_swap", "health/copy", "validation/loss"} <= set(columns)


def test_a_run_is_followed_until_its_training_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=30)
    begun, go = threading.Event(), threading.Event()

    def training() -> None:
        with hold(run):
            begun.set()
            go.wait(60)
            file = MetricsLogger(run / "metrics.csv")
            for step in (10, 20, 30):
                file.log_metrics({"train/loss": 1 / step, "train/samples_per_second": 16.0, "train/waiting": 0.5}, step)
                time.sleep(0.05)

    thread = threading.Thread(target=training)
    thread.start()
    begun.wait(60)
    seen = []
    for moment in moments(Watch(run), 0.01):
        seen.append((moment.state, moment.curves.step, moment.seconds_left))
        if not go.is_set():
            assert moment.note().endswith(f"process {os.getpid()} on {os.uname().nodename}: no figures yet; the first "
                                          "is at step 10")  # fmt: skip
            go.set()
    thread.join()
    assert seen[0] == ("running", None, None)
    assert ("running", 20, 5.0) in seen  # 10 steps of 8 samples at 16 a second
    assert seen[-1] == ("finished", 30, None)
    assert not (run / FOLDER).exists()


def test_one_who_looks_claims_nothing_and_takes_nothing_away(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    dead = (run / FOLDER) / "dead.json"
    dead.write_bytes(b"{}")
    os.utime(dead.path, (1, 1))
    before = sorted(tmp_path.rglob("*"))
    assert writers(run) == []
    assert Watch(run).look().state == "stopped"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,train/loss\n10,1\n")
    moment = Watch(run).look()
    assert (moment.state, moment.progress()) == ("stopped", "step 10 of 1,000, 1.0 %")
    assert f"--out {run} --resume auto" in moment.note()


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,train/loss\n10,1.0\n20,0.12")
    watch = Watch(run)
    assert values(watch.look()) == [(10, 1.0)]
    append(run, "5\r\n30,0.0625\r\n4")
    assert values(watch.look()) == [(10, 1.0), (20, 0.125), (30, 0.0625)]


def test_only_what_is_new_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,train/loss\n" + "".join(f"{step},1.5\n" for step in range(1, 2000)))
    watch = Watch(run)
    watch.look()
    taken: list[int] = []
    add = Curves.add
    monkeypatch.setattr(Curves, "add", lambda self, step, figures: (taken.append(step), add(self, step, figures))[1])
    append(run, "2000,1.5\r\n")
    watch.look()
    watch.look()
    assert taken == [2000]


def test_a_column_that_comes_later_and_a_resumed_run_begin_the_file_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    file = MetricsLogger(run / "metrics.csv")
    watch = Watch(run)
    for step in (10, 20, 30):
        file.log_metrics({"train/loss": float(step)}, step)
        watch.look()
    file.log_metrics({"validation/loss": 7.0}, 30)
    assert values(watch.look(), "validation/loss") == [(30, 7.0)]
    resumed = MetricsLogger(run / "metrics.csv")
    resumed.start_at(10)
    assert values(watch.look()) == [(10, 10.0)]
    assert "validation/loss" not in watch.look().curves.by_name
    for step in (20, 30, 40):
        resumed.log_metrics({"train/loss": 2.0 * step}, step)
    assert values(watch.look()) == [(10, 10.0), (20, 40.0), (30, 60.0), (40, 80.0)]


def test_steps_that_come_again_replace_those_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,train/loss\n10,1\n20,2\n30,3\n20,5\n20,6\n")
    moment = Watch(run).look()
    assert values(moment) == [(10, 1), (20, 6)]
    assert moment.curves.step == 20


def test_what_is_not_finite_is_named_and_left_out_of_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,train/loss\n10,1\n20,nan\n30,inf\n")
    moment = Watch(run).look()
    assert values(moment) == [(10, 1)]
    assert moment.warnings == ["train/loss is inf at step 30: it is no finite number"]


def test_lines_that_are_no_rows_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, 'step,train/loss\n10,1\n,2\n20,much\n"3\n-4,1\n40,4,5,6\n50\n')
    moment = Watch(run).look()
    assert values(moment) == [(10, 1), (40, 4)]
    assert moment.curves.step == 50
    assert moment.warnings == ["metrics.csv has 4 lines that are no rows of numbers; they are left out"]


@pytest.mark.parametrize("content", ["", "step,train/loss\n", "step"])
def test_a_file_without_rows_says_so(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "run")
    write(run, content)
    moment = Watch(run).look()
    assert (moment.curves.step, moment.readings, moment.progress()) == (None, [], "no step is reported yet")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00", b"a,b\n1,2\n", b"x" * (2 << 20)])
def test_a_file_that_is_no_table_is_damaged(tmp_path: Path, content: bytes) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.csv").write_bytes(content)
    with pytest.raises(DamagedError, match=r"metrics\.csv is damaged: "):
        Watch(run).look()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere does not exist; expected the folder of a run"):
        Watch(Location.of(tmp_path / "nowhere")).look()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        ArtifactError, match=r"is no run: neither config.yaml nor metrics.csv is there \(it holds notes"
    ):
        Watch(Location.of(tmp_path)).look()
    with pytest.raises(ArtifactError, match=r"notes\.txt is no run"):
        Watch(Location.of(tmp_path / "notes.txt")).look()
    (tmp_path / "config.yaml").write_text("steps: [1")
    with pytest.raises(DamagedError, match=r"config\.yaml is damaged"):
        Watch(Location.of(tmp_path)).look()


def test_a_run_without_its_settings_is_shown_without_their_figures(tmp_path: Path) -> None:
    write(Location.of(tmp_path), "step,train/loss,train/samples_per_second\n10,1,5\n")
    moment = Watch(Location.of(tmp_path)).look()
    assert (moment.state, moment.progress(), moment.share, moment.steps_per_second) == ("ended", "step 10", None, None)


def test_the_rate_of_steps_follows_from_the_batches_that_add_up(tmp_path: Path) -> None:
    for devices, rate in ((2, 0.5), ((0, 1, 2, 3), 0.25), ("auto", None)):
        run = make_run(tmp_path / f"{devices}", accumulate=4, batch_size=8, trainer={"devices": devices})
        write(run, "step,train/samples_per_second\n10,32\n")
        assert Watch(run).look().steps_per_second == rate


def test_a_long_run_takes_no_more_points_than_a_chart_shows() -> None:
    curves = Curves()
    for step in range(50, 1_000_001, 50):
        curves.add(step, {"a": step, "b": 1.0 if step == 777_750 else 0.0})
    points = curves.by_name["a"].points
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert all(point.mean == pytest.approx(point.step) for point in points)
    assert max(point.high for point in curves.by_name["b"].points) == 1.0
    curves.add(500_000, {"a": 3.0})
    assert all(point.step <= 504_096 for point in curves.by_name["a"].points)
    assert curves.newest("a") == 3.0


# --- what is healthy ---


def test_the_alarm_of_the_training_is_heard_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", warmup_steps=100)
    rows = [f"{step},1.01" for step in range(50, 501, 50)]
    write(run, "step,health/z_swap\n" + "\n".join(rows[:-2]) + "\n")
    watch = Watch(run)
    moment = watch.look()
    assert moment.warnings == [], "the training has said nothing either"
    assert [each.verdict for each in moment.readings] == ["look"]
    append(run, "\r\n".join([*rows[-2:], ""]))
    (said,) = watch.look().warnings
    assert said.startswith("at step 450 the z-swap ratio is 1.010, and never above 1.02 since step 150")
    append(run, "550,1.4\r\n")
    assert watch.look().warnings == [said], "one reading is not enough"
    append(run, "".join(f"{step},1.4\r\n" for step in range(560, 600, 10)))
    assert watch.look().warnings == []


def test_a_ratio_that_is_not_finite_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,health/z_swap\n150,nan\n")
    assert Watch(run).look().warnings == ["health/z_swap is nan at step 150: it is no finite number"]


def test_nothing_is_judged_before_the_end_of_the_warm_up(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,health/copy,health/z_swap\n100,1.2,1.0\n")
    watch = Watch(run)
    assert watch.look().warnings == []
    append(run, "101,1.2,2.0\r\n")
    assert watch.look().warnings == [
        "health/copy is 1.2 at step 101: the reconstruction is no better than the frame before"
    ]


def test_waiting_and_a_validation_loss_that_rises_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, "step,train/waiting,validation/loss\n200,0.01,1\n300,0.01,0.5\n400,0.4,0.6\n")
    waiting, overfitted = Watch(run).look().warnings
    assert waiting.startswith("train/waiting is 40 % at step 400: training waits for data")
    assert overfitted.startswith("validation/loss is 0.6 at step 400, 20% above its best at step 300: samples repeat")


def test_the_page_on_reproducing_says_the_same_of_what_is_healthy() -> None:
    text = (ROOT / "docs" / "reproduce.md").read_text()
    for figure in FIGURES:
        if figure.is_sick is not None:
            assert figure.name in text, f"docs/reproduce.md does not say what {figure.name} means"
            assert not math.isnan(figure.scale)


# --- object stores ---


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_in_an_object_store_is_followed(bucket: Location) -> None:
    run = bucket / "run"
    with pytest.raises(ArtifactError, match="does not exist"):
        Watch(run).look()
    config = to_yaml(tokenizer_config("features", Path("run"), steps=40), "tokenizer")
    with hold(run):
        (run / "config.yaml").write_bytes(config.encode())
        file = MetricsLogger(run / "metrics.csv")
        file.log_metrics({"train/loss": 2.0}, 10)
        watch = Watch(run)
        assert (watch.look().state, values(watch.look())) == ("running", [(10, 2.0)])
        file.log_metrics({"train/loss": 1.0}, 20)
        file.save()
        assert values(watch.look()) == [(10, 2.0), (20, 1.0)]
    assert watch.look().state == "stopped"
