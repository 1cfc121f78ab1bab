"""Results files and run folders as users leave them: one seed a run, torn, unlike, odd; and every program's --help."""

import json
import re
import subprocess
from pathlib import Path

import sac_continuous as sac
from analysis import ROOT, collect, curves, gap, records, report, tables
from analysis.experiments import drawn
from runtime.messages import Refused

import numpy as np
import pytest
from conftest import copied, forked
from test_analysis import run_folder

PROGRAMS = [p for p in sorted((ROOT / "analysis").rglob("*.py")) if "__main__" in p.read_text(encoding="utf-8")]


def arms_of(*folders, **options):
    return records.read_arms([Path(folder) for folder in folders], **options)


# --------------------------------------------------------------------------------------------------------- programs
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_says_what_it_is_for(path, monkeypatch):
    """From any folder, in any locale, and bad flags are refused in one line."""
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = forked(path, "--help", encoding="iso-8859-1")
    first = path.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
    assert code == 0 and first.encode("iso-8859-1", "replace") in out, err
    code, out, err = forked(path, "--no-such-flag")
    assert code == 2 and err.count(b"\n") == 1 and not out, err


def test_text_is_utf8_whatever_the_locale():
    """No file of text is opened in the locale's encoding."""
    for path in (ROOT / "analysis").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"read_text\(\)|write_text\(|\.open\(\)|\.open\(\"[wa]\"\)", text), path


# --------------------------------------------------------------------------------------------------------- pooling
def test_runs_of_single_seeds_are_one_arm(capsys):
    """Two scripts with --seed 1 and --seed 2, as CleanRL's users run them: every table is that of two seeds."""
    curves_of = {"sac_continuous": [[1, 5, 3], [2, 2, 8]], "sac_hpo_continuous": [[4, 6, 9], [6, 13, 10]]}
    folders = [run_folder(f"{script}__{seed}", script, seed, curve)
               for script, both in curves_of.items() for seed, curve in enumerate(both, 1)]  # fmt: skip
    sac_arm, hpo_arm = arms = arms_of(*folders)
    assert sac_arm.seeds == [1, 2] == hpo_arm.seeds and sac_arm.curve().tolist() == [[1, 5, 3], [2, 2, 8]]
    assert "| Toy-v0 | sac_continuous | 2 | 300 | 6 ± 2 | 5, 8 |" in tables.returns_table(arms)
    assert "| Toy-v0 | sac_hpo_continuous | best | +4 | [-7, +16] |" in tables.differences_table(arms)  # Welch by hand
    assert tables.steps_table(arms).splitlines()[2] == "| Toy-v0 | 100 | 2 ± 1 | 5 ± 1 |"
    labels = [text.get_text() for text in curves.figure_of(arms).legends[0].get_texts()]
    assert labels == ["SAC, 2 seeds", "SAC-HPO, 2 seeds"]
    assert not capsys.readouterr().err
    (again,) = arms_of("sac_continuous__1", run_folder("x__1__9999999999", "sac_continuous", 1, [7, 7, 7]))
    assert (
        again.curve().tolist() == [[7, 7, 7]]
        and "seed 1 ran twice: x__1__9999999999 is taken" in capsys.readouterr().err
    )


def test_runs_that_differ_in_length_or_have_not_evaluated(capsys):
    """Each is told in a line on stderr; none is a traceback, and none takes the others' table away."""
    run_folder("long", "sac_continuous", 1, [1, 2, 3, 4])
    run_folder("other", "sac_continuous", 1, [5, 6])  # of 200 steps: another arm
    run_folder("half", "sac_continuous", 2, [3, 4], missing=2)  # stopped: pooled as far as it came
    run_folder("new", "sac_continuous", 3, [], missing=3)
    run_folder("hpo", "sac_hpo_continuous", 1, [9, 8, 7])
    arms = arms_of("long", "other", "half", "new", "hpo")
    assert [(arm.length, arm.seeds, arm.steps.tolist()) for arm in arms] == [
        (400, [1, 2], [100, 200]), (200, [1], [100, 200]), (300, [1], [100, 200, 300])]  # fmt: skip
    told = capsys.readouterr().err
    assert "2 evaluations that not every seed has are left out, 2 stay, to step 200" in told
    assert "new has no evaluation yet: left out" in told and told.count("\n") == 2
    assert "sac_continuous (400 steps)" in tables.returns_table(arms)
    text = tables.differences_table(arms)
    assert "| Toy-v0 | sac_hpo_continuous | last evaluation | +5 |" in text  # 8 - (2 + 4) / 2, at step 200
    assert "over the 2 evaluations that both have, to step 200" in capsys.readouterr().err
    lines = Path("long/evaluations.csv").read_text().splitlines()
    Path("long/evaluations.csv").write_text("\n".join(lines[:-1]) + "\n")  # killed between two episodes
    (arm,) = arms_of("long")
    assert arm.values["return"].shape == (1, 4, 1) and "the first 1 of each are taken" in capsys.readouterr().err
    assert [arm.seeds for arm in arms_of("half", "hpo", until=100)] == [[2], [1]]
    Path("odd").mkdir()
    for text in ("[]", "null", "{", '{"script": "sac_continuous", "args": 3}'):
        Path("odd/config.json").write_text(text)
        assert (
            len(arms_of("odd", "half")) == 1
            and "odd holds no config.json of a run: left out" in capsys.readouterr().err
        )


def test_what_all_arms_share_is_in_the_title():
    for script in ("sac_continuous", "sac_hpo_continuous"):
        folder = run_folder(script, script, 1, [1, 2])
        config = json.loads((folder / "config.json").read_text())
        config["args"] |= {"tau": 0.5, "gamma": 0.9 if script == "sac_continuous" else 0.99}
        config["source"]["tau"] = "command line"
        (folder / "config.json").write_text(json.dumps(config))
    arms = arms_of("sac_continuous", "sac_hpo_continuous")
    assert records.labels(arms) == ("--tau-0.5", ["sac_continuous --gamma-0.9", "sac_hpo_continuous"])
    assert tables.returns_table(arms).startswith("| environment | script, all --tau-0.5 |")
    for against in ("sac_continuous --gamma-0.9 --tau-0.5", "sac_continuous --gamma-0.9"):
        assert "| sac_hpo_continuous | best | +0 |" in tables.differences_table(arms, against)
    assert curves.figure_of(arms)._suptitle.get_text() == "all --tau-0.5"
    assert records.labels(arms[:1])[1] == ["sac_continuous --gamma-0.9 --tau-0.5"]  # alone it keeps its flags


def test_legends_stay_inside_the_figure():
    flags = tuple(f"--a-rather-long-flag-{i}-1.2345678" for i in range(12))
    arms = [records.Arm(f"Toy-v{i % 2}", "sac_continuous", flags[: 12 - i], 200, [1], np.array([100, 200]),
                        {"return": np.ones((1, 2, 1))}) for i in range(4)]  # fmt: skip
    for shown in (arms, arms[:1]):
        figure = curves.figure_of(shown)
        figure.canvas.draw()
        box, legend = figure.bbox, figure.legends[0].get_window_extent()
        assert box.x0 <= legend.x0 and legend.x1 <= box.x1 and box.y0 <= legend.y0 and legend.y1 <= box.y1
        assert all(axis.get_window_extent().y0 > legend.y1 for axis in figure.axes if axis.get_visible())


def test_a_diverged_seed_is_an_outcome(capsys):
    for script, more in (("sac_continuous", 0), ("sac_hpo_continuous", 1)):
        rows = {(t, s): t / 100 + s + more for t in (100, 200) for s in (1, 2, 3)}
        rows[200, 3] = rows[200, 3] if more else np.nan
        lines = [f"{t},{s},0,{value},9" for (t, s), value in rows.items()]
        Path(f"Toy-v0__{script}.csv").write_text("\n".join(["step,seed,episode,return,length", *lines, ""]))
    arms = arms_of("Toy-v0__sac_continuous.csv", "Toy-v0__sac_hpo_continuous.csv")
    text = tables.returns_table(arms)
    assert "| sac_continuous | 3, 1 diverged | 200 | 4 ± 1 | 3, 4, diverged | 4 | 4 ± 1 | 3 ± 1 |" in text
    assert "| 200 | 4 ± 1, 1 diverged | 5 ± 1 |" in tables.steps_table(arms)
    # SAC's last evaluations are 3, 4 and, for the lost one, 2, the lowest of both: 3; SAC-HPO's 4, 5, 6
    assert "| sac_hpo_continuous | last evaluation | +2 |" in tables.differences_table(arms)
    assert curves.figure_of(arms).legends[0].get_texts()[0].get_text() == "SAC, 3 seeds, 1 diverged"


# ------------------------------------------------------------------------------------------------------------ torn
def test_a_torn_last_row_is_not_a_result(finished, capsys):
    """Of a finished run the checkpoint's copy is taken; elsewhere the row is left out, and told."""
    run = copied(finished(sac))
    table = run / "evaluations.csv"
    whole = table.read_text()
    _, text = collect.collect([run])
    for cut in (1, 2, 10):
        table.write_text(whole[:-cut])
        assert collect.collect([run])[1] == text and records.evaluations(run) == whole
    for path in run.glob("checkpoints/step-*.pt"):
        path.unlink()
    with pytest.raises(Refused, match="torn: mend it with --resume"):
        collect.collect([run])
    (arm,) = arms_of(run)
    assert arm.values["return"].shape == (1, 2, 1) and "--resume mends it" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- commits
def test_results_name_commits_that_the_repository_holds():
    """Or say that it does not."""
    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode:
        pytest.skip("no repository here")
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "results").rglob("*.csv")}
    heads = re.findall(r"^#   commit (\w{7,40})(?:-dirty)?;.*\n(.*)$", "\n".join(files.values()), re.M)
    asked = ["git", "-C", str(ROOT), "cat-file", "-t"]
    kinds = {x: subprocess.run([*asked, x], capture_output=True, text=True).stdout for x, _ in heads}
    assert len(heads) > 50
    for commit, after in heads:
        assert (kinds[commit] == "commit\n") == (after != records.LOST_COMMIT), commit


# ---------------------------------------------------------------------------------------------- input of other kinds
def test_show_refuses_foreign_and_broken_files():
    run = run_folder("run", "sac_continuous", 1, [1])
    Path("broken.csv").write_text(",".join(gap.COLUMNS) + "\nE,s,1,2,x,3,3,4\n")
    Path("short.csv").write_text(",".join(gap.COLUMNS) + "\nE,s,1\n")
    Path("long.csv").write_text(",".join(gap.COLUMNS) + "\n" + "x" * 200_000 + "\n")
    for name in (run / "evaluations.csv", Path("broken.csv"), Path("short.csv"), Path("long.csv"), run, Path("no.csv")):
        with pytest.raises(Refused):
            gap.shown((name,))
    with pytest.raises(Refused, match="has no column"):
        drawn.shown((run / "evaluations.csv",))


def test_one_run_of_another_kind_ends_nothing(capsys):
    folders = [Path("a"), Path("b")]

    def work(folder):
        return 1 if folder == folders[0] else records.fail("b is of another kind")

    assert list(records.each(folders, work)) == [(folders[0], 1)]
    assert capsys.readouterr().err.endswith("b is of another kind: left out\n")
    with pytest.raises(Refused, match="b is of another kind"):
        list(records.each(folders[1:], work))
    with pytest.raises(Refused, match="none of these"):
        list(records.each(folders[1:] * 2, work))
    with pytest.raises(Refused, match="is a folder: name a file"):  # before anything is measured
        gap.main(gap.Args((Path("nowhere"),), output=Path(".")))


def test_a_value_may_begin_with_dashes():
    from analysis.checks import throughput

    for words in (["--flags", "--no-compile"], ["--flags=--no-compile"]):
        assert report.parsed(throughput.Args, "doc", words, ("--flags",)).flags == "--no-compile"
    with pytest.raises(Refused) as refusal:
        report.parsed(throughput.Args, "doc", ["--rounds", "many"])
    assert "\n" not in str(refusal.value)


def test_an_interrupted_throughput_leaves_what_it_measured(monkeypatch, capsys):
    """A line a measurement; at Ctrl-C the table of those that were made."""
    from analysis.checks import throughput

    made = []

    def measurement(cell, args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(cell)
        return {"rate": 100.0 * len(made), "ceiling": 1000.0, "threads": 1, "library": "NumPy", "peers": []}

    monkeypatch.setattr(throughput, "measurement", measurement)
    args = throughput.Args(cuda=False, num_seeds=(1, 2), output=Path("speed.csv"))
    assert throughput.main(args) == 130
    rows = records.read_rows(Path("speed.csv"))
    assert [(row["script"], row["seeds"], row["steps/s"]) for row in rows] == [
        ("sac_continuous", "1", "100.0"), ("sac_continuous", "2", "200.0")]  # fmt: skip
    said = capsys.readouterr()
    assert "round 1 of 3: sac_continuous, K = 0, 2 seeds: 200.0 steps/s" in said.out and "| 200.0 |" in said.out
    assert "stopped after 2 of 12 measurements" in said.err
    with pytest.raises(Refused, match="has no column"):
        throughput.show(run_folder("run", "sac_continuous", 1, [1]) / "evaluations.csv")
