"""From results files to the page of tables, curves and verdicts, on made-up returns."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import mcmcpo_hmc_continuous as hmc
from analysis import ROOT
from analysis.benchmark import cells, claims, page, standing
from analysis.benchmark.cells import SCALES, Place, chosen, read
from analysis.benchmark.claims import CLAIMS, HPO, NF, SAC, SECTIONS, STEPS
from analysis.benchmark.intervals import Means
from runtime.arguments import parse
from runtime.messages import Refused

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
import torch

LIST = ROOT / "benchmark.sh"


def put(place, its, curves):
    """The results file of a cell whose seeds' evaluations (S, T) are these, each in one episode."""
    steps = np.linspace(0, its.steps, len(curves[0]) + 1).astype(int)[1:]
    rows = [f"{t},{s + 1},0,{curves[s][i]},10" for i, t in enumerate(steps) for s in range(its.seeds)]
    head = [
        f"# python {its.script}.py {' '.join(its.command()[1:])}",
        "#   commit 0123456789; cpu, 1 threads",
        values_of(its),
        "step,seed,episode,return,length",
    ]
    cells.write_whole(place.results(its), "\n".join([*head, *rows]) + "\n")


def values_of(its):
    return f"#   values {json.dumps(cells.own_values(its))}"


def made_up(level, rng, seeds=8):
    """Curves that climb to a level, and seeds that differ by one."""
    return np.linspace(0.5, 1, 4) * level + rng.normal(size=(seeds, 1))


@pytest.fixture
def results(tmp_path):
    return page.Results(Place(tmp_path, "laptop"))


@pytest.mark.parametrize("scale", SCALES)
def test_the_list_names_a_cell_for_every_curve_and_claim(scale):
    results = page.Results(Place(Path("."), scale))
    for arm, env_id in {(arm, env_id) for s in SECTIONS for arm in s.arms for env_id in s.env_ids}:
        assert results.cell(arm, env_id), (arm, env_id)
    shown = {results.cell(arm, env_id) for s in SECTIONS for arm in s.arms for env_id in s.env_ids}
    assert shown == {*chosen(results.lines, [])}  # and no curve is run in vain
    for claim in CLAIMS:
        assert all(results.cell(arm, env_id) for env_id, x, y, _ in claim.parts() for arm in (x, y))
    for section in SECTIONS:
        its = {results.cell(arm, env_id) for arm in section.arms for env_id in section.env_ids}
        extra = {results.cell(SAC, env_id) for env_id in section.env_ids} if section.item == "noise" else set()
        assert its - extra <= {*chosen(results.lines, [section.item])}, section.item


def test_items_have_the_papers_seeds_and_steps():
    paper, laptop, smoke = (
        {c.name: c for c in chosen(read(LIST, scale), [])} for scale in ("paper", "laptop", "smoke")
    )
    assert paper.keys() == laptop.keys() == smoke.keys() and len(paper) == 61
    assert {(c.seeds, c.steps) for c in chosen(read(LIST, "paper"), ["table1"])} == {(5, 500_000)}
    assert {(c.seeds, c.steps) for c in chosen(read(LIST, "paper"), ["figure3", "table5"])} == {(4, 1_000_000)}
    shown = {c.name: (c.seeds, c.steps) for c in chosen(read(LIST, "laptop"), ["table1"])}
    assert {*shown.values()} == {(4, 100_000)} and len(shown) == 9
    states = [c for c in laptop.values() if "pixels" not in c.name and "mcmcpo" not in c.name and c.name not in shown]
    assert {(c.seeds, c.steps) for c in states} == {(8, 100_000)}
    for c in laptop.values():
        if "pixels" in c.name:  # a tenth of 500,000 simulator steps
            assert c.steps * (4 if "cheetah" in c.name else 2) == 50_000 and paper[c.name].steps == 10 * c.steps
    assert laptop["Ant-v4__sac_hpo_continuous"].flags == ("--keep-agents",)  # for Figure 8, whichever item is run
    assert laptop["Hopper-v4__sac_hpo_continuous"].flags == ()  # K = 2 of Figure 7 is Table 4's
    assert laptop["Hopper-v4__sac_hpo_continuous__leapfrog-steps-3"].flags == ("--leapfrog-steps", "3")


def test_tables_show_printed_numbers_beside_ours(results):
    its = results.cell(NF, "HumanoidBulletEnv-v0")
    put(results.place, its, [[1, 5 + s, 3] for s in range(8)])  # best 5 to 12: 8.5 ± 2.45; last 3; means 3 to 5.33
    text = page.section_text(SECTIONS[0], results)
    assert "| HumanoidBulletEnv-v0 | 1357 ± 269 | not run | 1695 ± 258 | 8 ± 2 (8) | 2518 ± 219 | not run |" in text
    assert "| HumanoidFlagrunBulletEnv-v0 | 61 ± 25 | not run | 148 ± 59 | not run | 164 ± 32 | not run |" in text
    assert "| HumanoidFlagrunHarderBulletEnv-v0 | 45 ± 21 | not run | 77 ± 34 | not run | 113 ± 28 | not run |" in text
    put(results.place, results.cell(claims.LANGEVIN, "Ant-v4"), [[9, 4 + s] for s in range(4)])
    text = page.section_text(SECTIONS[1], results)
    row = "| Ant-v4 | 3492.1 ± 126.9 | not run | 4037.1 ± 158.1 | not run | 4037.1 ± 158.1 | 6 ± 1 (4) |"
    assert row in text and "3281.1 ± 168.1" in text and "2925.7 ± 133.1" in text
    assert "difference to" not in text
    results.curves.cache_clear()
    put(results.place, results.cell(claims.SAC05, "Ant-v4"), [[9, 1 + 2 * s] for s in range(4)])
    # last ones 4 to 7 and 1 to 7: variances 5/3 and 20/3, so a standard error of 1.443 and 4.41 degrees of freedom
    text = page.section_text(SECTIONS[1], results)
    low, high = (1.5 + k * 1.4434 * scipy.stats.t.ppf(0.975, 4.4118) for k in (-1, 1))
    assert "| difference to SAC, α 0.05 (last) | MCMC-PO, HMC | MCMC-PO, Langevin |" in text
    assert f"| Ant-v4 |  | +2 [{low:+.0f}, {high:+.0f}] |" in text
    lines = text.splitlines()
    assert lines[0] == "100,000 steps, the paper's are 500,000."
    assert lines[2].endswith("| MCMC-PO, Langevin: printed | ours | SAC | SAC-HPO | standing still | random actions |")
    paper = page.Results(Place(results.place.base, "paper"))  # 1,000,000 steps of SAC beside 500,000 of table1
    put(paper.place, paper.cell(SAC, "Ant-v4"), [[9, 4 + s, 7, 8] for s in range(4)])
    assert "| 4037.1 ± 158.1 | not run | 6 ± 1 (4) | not run |" in page.section_text(SECTIONS[1], paper)
    for part in ("2613.2 ± 102.8", "4021.3 ± 172.2"):
        assert part in text


def test_what_is_earned_without_learning_stands_beside_what_was_learned(results, monkeypatch):
    """Standing still earns 10 on Ant; SAC's best, 9, is below, its diverged seed aside, and SAC-HPO's 10.5 not."""
    idle = {"standing still": np.array([9.0, 11.0]), "random actions": np.array([-3.0, -5.0])}
    monkeypatch.setattr(results, "standing", {"Ant-v4": idle, "HumanoidFlagrunHarderBulletEnv-v0": idle | {
        "standing still": np.array([77.5])}})  # fmt: skip
    put(results.place, results.cell(SAC, "Ant-v4"), [[0, 1 + s + 4] if s else [0, np.nan] for s in range(8)])
    put(results.place, results.cell(HPO, "Ant-v4"), [[0, 7 + s] for s in range(8)])
    (section,) = (s for s in SECTIONS if s.item == "figure3")
    text = page.section_text(section, results)
    assert "| Ant-v4 | 9 ± 2 (7, 1 diverged) | 10 ± 2 (8) | 10 ± 1 | -4 ± 1 |" in text
    assert "| Humanoid-v4 | not run | not run | not measured | not measured |" in text
    assert text.split("\n\n")[2] == "The mean of standing still is higher on Ant-v4 (10) than SAC (9)."
    harder = "on HumanoidFlagrunHarderBulletEnv-v0 (78) than SAC as printed (45) and SAC-NF as printed (77)."
    assert f"The mean of standing still is higher {harder}" in page.section_text(SECTIONS[0], results)
    results.standing = {}
    assert "| environment (best) | SAC | SAC-HPO |\n" in page.section_text(section, results)
    assert page.Results(Place(results.place.base, "smoke")).standing == {}


def test_standing_still_is_measured_on_every_task(tmp_path, monkeypatch, capsys):
    """The committed file has all of them, Ant's thousand steps of being alive among them; a task is measured anew."""
    found, rows = standing.known(), standing.read_rows(standing.OUTPUT)
    assert {*found} == {env_id for section in SECTIONS for env_id in section.env_ids} and len(rows) == 220
    assert {len(x) for kinds in found.values() for x in kinds.values()} == {10} and len(found) == 11
    assert found["Ant-v4"]["standing still"].mean() == pytest.approx(1000, abs=10)
    steps = {
        row["environment"].split("/")[1]: int(row["length"]) for row in rows if row["environment"] in claims.PIXELS
    }
    assert steps == {"cheetah-run-v0": 250, "finger-spin-v0": 500, "walker-walk-v0": 500}  # a thousand, repeated
    monkeypatch.setattr(standing, "EPISODES", 2)
    standing.main(["Hopper-v4", "--output", str(tmp_path / "mine.csv")])
    again, kept = standing.known(tmp_path / "mine.csv")["Hopper-v4"], found["Hopper-v4"]
    assert all(again[kind] == pytest.approx(kept[kind][:2], rel=0.01) for kind in standing.KINDS[:1])
    assert -100 < again["random actions"].mean() < 100 and "| Hopper-v4 | " in capsys.readouterr().out
    assert (tmp_path / "mine.csv").read_text().startswith("# python analysis/benchmark/standing.py Hopper-v4\n")
    with pytest.raises(Refused, match="need an --output of their own"):
        standing.main(["Hopper-v4"])


def test_aggregates_by_hand(results):
    """Two tasks of three; in each SAC's best are all below SAC-HPO's: IQM by hand on scores from 0 to 1."""
    (section,) = (s for s in SECTIONS if s.item == "figure3")
    for env_id in ("Hopper-v4", "Ant-v4"):
        put(results.place, results.cell(SAC, env_id), [[0, 1 + s] for s in range(8)])  # best 1 to 8
        put(results.place, results.cell(HPO, env_id), [[0, 9 + s] for s in range(8)])  # best 9 to 16
    text = page.aggregates(section, "best", results)
    # of SAC's 16 scores the middle eight are 3, 3, .., 6, 6 sixteenths, so 4.5/16 = 0.28; SAC-HPO's 12.5/16 = 0.78
    assert "| 2 of 5 tasks (best) |" in text and "| SAC | 0.28 | [" in text and "| SAC-HPO | 0.78 | [" in text
    assert text.endswith("| 1.00 | [1.00, 1.00] |")
    low, high = map(float, re.search(r"SAC \| 0.28 \| \[([\d.]+), ([\d.]+)\]", text).groups())
    assert 0.15 < low < 0.28 < high < 0.42


def said(results, start):
    (row,) = (row for row in page.verdicts(results).splitlines() if row.startswith(f"| {start}"))
    return row


def test_verdicts_of_claims_about_several_tasks(tmp_path):
    """It holds on five tasks; on four and one missing nothing can be told; where one contradicts it does not hold."""
    rng = np.random.default_rng(0)
    more, faster = "SAC-HPO reaches more than SAC on all", "SAC-HPO learns faster than SAC on all"
    for i, env_id in enumerate(claims.MUJOCO):
        results = page.Results(Place(tmp_path, "laptop"))
        put(results.place, results.cell(SAC, env_id), made_up(100, rng))
        put(results.place, results.cell(HPO, env_id), made_up(120, rng))
        row = said(results, more)
        assert ("**holds**" in row) == (i == 4) and ("**too early**" in row) == (i < 4), i
        left = ", ".join(map(page.short, claims.MUJOCO[i + 1 :]))
        assert row.endswith(f"; not run: {left} |") == (i < 4) and row.count("not run") == (i < 4)
    assert "**holds**" in said(results, faster)
    low, high = map(int, re.search(r"Hopper: \+\d+ \[\+(\d+), \+(\d+)\]", row).groups())
    assert 17 < low <= 20 <= high < 23
    put(results.place, results.cell(HPO, "Hopper-v4"), made_up(95, rng))
    row = said(page.Results(results.place), more)
    assert "**does not hold**" in row and re.search(r"Hopper: -\d \[-\d, -\d\]", row)
    assert "**does not hold**" in said(page.Results(results.place), faster)


def test_verdicts_of_about_the_same_and_of_spread(tmp_path):
    rng = np.random.default_rng(1)
    place = Place(tmp_path, "laptop")
    for level, others, verdict in ((105, 100, "holds"), (150, 100, "does not hold"), (120, 100, "cannot be told")):
        results = page.Results(place)
        put(place, results.cell(STEPS[3], "Hopper-v4"), made_up(level, rng))
        put(place, results.cell(STEPS[2], "Hopper-v4"), made_up(others, rng))
        assert f"**{verdict}**" in said(page.Results(place), "K = 2 and K = 3 reach about the same"), level
    for env_id in claims.ABLATED:
        results = page.Results(place)
        put(place, results.cell(HPO, env_id), made_up(100, rng))
        put(place, results.cell(claims.BASELINE1, env_id), 100 + 30 * (made_up(100, rng) - 100))
    row = said(page.Results(place), "with the learned force seeds lie closer")
    assert "**holds**" in row and re.search(r"Ant: \+3\.\d\d \[\+[12]\.\d\d, ", row)  # log 30 is 3.4


def test_verdicts_of_no_more(tmp_path):
    """K = 4 far below K = 3, and the same, are no more; a third more is more."""
    rng, place = np.random.default_rng(3), Place(tmp_path, "laptop")
    for level, verdict in ((50, "holds"), (100, "holds"), (133, "does not hold"), (120, "cannot be told")):
        results = page.Results(place)
        put(place, results.cell(STEPS[4], "Hopper-v4"), made_up(level, rng))
        put(place, results.cell(STEPS[3], "Hopper-v4"), made_up(100, rng))
        assert f"**{verdict}**" in said(page.Results(place), "a large K is of no use"), level


def test_a_fixed_beta_stays(results):
    """The cell's gains leave β where it begins, whatever the distance, for as many updates as it has."""
    its = results.cell(claims.FIXED, "Hopper-v4")
    args, _ = parse(hmc, its.command()[1:])
    pid = hmc.Pid(args, 0.3)
    for distance in np.random.default_rng(0).exponential(size=2000):
        pid.step(torch.tensor([[10 * distance]], dtype=torch.float32))
        assert pid.beta.item() == pytest.approx(0.2, abs=1e-6)
    assert hmc.Args().pid_i != args.pid_i and its.steps == results.cell(claims.HMC, "Hopper-v4").steps


def test_what_cannot_be_told_says_what_could_have_been(tmp_path):
    """Deviations of √6 and 3√6 in eight seeds: a standard error of √7.5. A decided verdict has no such number."""
    place = Place(tmp_path, "laptop")
    results = page.Results(place)
    x = np.arange(8.0)[:, None]
    put(place, results.cell(HPO, "Hopper-v4"), x + 3)
    put(place, results.cell(SAC, "Hopper-v4"), 3 * x - 7)
    smallest = Means(x[:, 0], 3 * x[:, 0]).could_show(0.95)
    row = said(results, "SAC-HPO reaches more than SAC on all")
    assert 8.2 < smallest < 8.8 and re.search(rf"Hopper: \+3 \[-3, \+9\], could show {smallest:.0f};", row)
    assert row.count("could show") == 1
    assert re.search(r"Hopper: [^]]*\] \*, could show \d\.\d\d;", said(results, "SAC-HPO's seeds lie closer"))
    put(place, results.cell(STEPS[3], "Hopper-v4"), x + 1000)
    put(place, results.cell(STEPS[2], "Hopper-v4"), x)
    assert "could show" not in said(page.Results(place), "K = 2 and K = 3 reach about the same")
    assert "could show" in " ".join(page.RULES.split())


def test_one_seed_tells_nothing(tmp_path):
    (tmp_path / "list").write_text(LIST.read_text().replace("8 x", "1 x"))
    results = page.Results(Place(tmp_path, "laptop"), tmp_path / "list")
    for arm, level in ((SAC, 1), (HPO, 100)):
        for env_id in claims.MUJOCO:
            put(results.place, results.cell(arm, env_id), [[level, level]])
    row = said(results, "SAC-HPO reaches more than SAC on all")
    assert "**cannot be told**" in row and row.count("too few seeds") == 5 and "nan" not in row
    row = said(results, "SAC-HPO's seeds lie closer")
    assert "**cannot be told**" in row and row.count("too few seeds") == 5 and "nan" not in row
    assert page.aggregates(SECTIONS[2], "best", results) == ""


def words(text):
    return " ".join(text.split())  # the page fills its lines


def test_the_page_and_its_figures(results, monkeypatch):
    rng = np.random.default_rng(2)
    for k in (1, 2, 3):
        put(results.place, results.cell(STEPS[k], "Hopper-v4"), made_up(100, rng))
    assert page.main(["page", "--base", str(results.place.base)]) == 0
    path = results.place.base / "docs/results.md"
    text = path.read_text()
    assert "3 of 61 cells, " in " ".join(text.split()) and "0123456 on cpu, 1 threads" in text
    pictures = re.findall(r"!\[[^]]*\]\((.*?)\)", text)
    assert pictures == ["results/figure7.png"]  # the others lack an arm
    assert all((path.parent / name).stat().st_size > 5000 for name in pictures)
    here, waiting = page.told(results)
    assert [section.item for section in here] == ["table5", "table1", "figure3", "figure7"]  # K = 2 is Figure 3's arm
    for section in here:
        assert f"## {section.title}" in text and words(page.section_text(section, results)) in words(text)
    for section in waiting:
        assert f"## {section.title}" not in text and f"- `{section.item}`: {section.title}\n" in text
    assert {*map(id, here)} | {*map(id, waiting)} == {*map(id, SECTIONS)}
    assert page.verdicts(results) in text and "nan" not in text
    monkeypatch.setenv("SCALE", "paper")
    assert page.main(["page", "--base", str(results.place.base)]) == 0
    assert "0 of 61 cells, " in " ".join((path.parent / "results-paper.md").read_text().split())


def test_published_sac_is_a_thin_line_of_figure3_alone(results, monkeypatch):
    """The mean of ten seeds to the end of ours: on HalfCheetah at 49,998 steps 4212."""
    figure, axis = plt.subplots()
    page.thin_line(axis, "HalfCheetah-v4", 100_000)
    page.thin_line(axis, "HumanoidBulletEnv-v0", 100_000)
    (line,) = axis.lines
    assert np.allclose(line.get_xdata(), [0.001, 16.666, 33.332, 49.998, 66.664, 83.33, 99.996])
    assert line.get_ydata()[3] == pytest.approx(4212, abs=1) and line.get_label() == "SAC, published, 10 seeds"
    assert line.get_color() == "gray" and line.get_linewidth() < 1
    plt.close(figure)
    drawn, rng = [], np.random.default_rng(7)
    monkeypatch.setattr(page, "thin_line", lambda axis, env_id, until: drawn.append((env_id, until)))
    for arm in (HPO, SAC, claims.NOISE):
        put(results.place, results.cell(arm, "Walker2d-v4"), made_up(100, rng))
    text = page.page(results)
    assert drawn == [("Walker2d-v4", 100_000)] and "results/noise.png" in text and text.count("thin grey line") == 1
    assert (results.place.base / "docs/results/figure3.png").stat().st_size < 300_000


def test_what_has_not_run_is_a_list(results):
    """A claim is in the table or in the list below it; a section stands on the page for what none above it shows."""
    rng = np.random.default_rng(3)
    table, listed = page.verdicts(results), page.verdicts(results).splitlines()[2:]
    assert all(row.startswith(f"- {claim.text} ({claim.where}") for row, claim in zip(listed, CLAIMS, strict=True))
    assert listed[3].endswith(" (HPO 5.1.1, Ant, Humanoid)") and "|" not in table.split("- ")[0]
    put(results.place, results.cell(HPO, "Hopper-v4"), made_up(100, rng))
    assert page.verdicts(page.Results(results.place)) == table  # one arm of two is nothing yet
    titles = [section.title for section in page.told(results)[0]]
    assert titles[2:] == ["HPO Figure 3: MuJoCo"]  # and not the four others that show this arm
    put(results.place, results.cell(SAC, "Hopper-v4"), made_up(100, rng))
    rows = page.verdicts(page.Results(results.place)).splitlines()
    told = [claim for claim in CLAIMS if any(row.startswith(f"| {claim.text} |") for row in rows)]
    assert [claim.text[:24] for claim in told] == [
        "SAC-HPO learns faster th",
        "SAC-HPO reaches more tha",
        "SAC-HPO's seeds lie clos",
    ]
    assert [row for row in rows if row.startswith("- ")] == [x for x, c in zip(listed, CLAIMS) if c not in told]


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_the_committed_page_is_what_its_command_writes(scale):
    results = page.Results(Place(ROOT, scale))
    path = page.page_path(results.place)
    assert not path.exists() or path.read_text() == page.page(results, drawing=False)
    assert scale == "paper" or path.exists()


def test_a_section_that_does_not_exist(capsys):
    with pytest.raises(Refused, match="no section tabel5: choose among page, verdicts, table5, table1"):
        page.main(["tabel5"])
    Path("file").touch()
    for base in ("nowhere", ".", "file"):
        with pytest.raises(Refused, match=f"--base {base}: no results/ there; name the folder that holds it"):
            page.main(["page", "--base", base])
    with pytest.raises(Refused, match="figure8 is drawn from agents, by analysis/policy_shape"):
        page.main(["figure8"])
    assert page.main(["table6"]) == 0 and page.main(["figure6"]) == 0
    left, right = capsys.readouterr().out.split("100,000 steps, ")[1:]
    assert left == right and left.startswith("for the paper's we take 1,000,000.")


def test_the_script_is_a_script():
    subprocess.run(["bash", "-n", str(LIST)], check=True)


def put_evaluated(place, its, curves, steps, episodes=1):
    """The same with the evaluations' steps and as many episodes of the same return each."""
    rows = [f"{t},{s + 1},{e},{curves[s][i]},10" for i, t in enumerate(steps) for s in range(its.seeds)
            for e in range(episodes)]  # fmt: skip
    command = f"# python {its.script}.py {' '.join(its.command()[1:])}"
    head = [command, values_of(its), "step,seed,episode,return,length"]
    cells.write_whole(place.results(its), "\n".join([*head, *rows]) + "\n")


def test_only_what_was_evaluated_alike_is_compared(tmp_path):
    """Identical arms, one evaluated ten times as often, whose best is therefore higher; and in more episodes."""
    place, rng = Place(tmp_path, "laptop"), np.random.default_rng(5)
    results = page.Results(place)
    sac, hpo = (results.cell(arm, "Hopper-v4") for arm in (claims.BASELINE1, HPO))
    often, seldom = np.arange(1, 11) * 10_000, [50_000, 100_000]
    curve = rng.normal(size=(8, 10))
    put_evaluated(place, hpo, curve, often, 3)
    put_evaluated(place, sac, curve[:, [4, 9]], seldom)
    (section,) = (s for s in SECTIONS if s.item == "ablations")
    for measure in ("best", "mean", "last"):
        found, _, note = page.estimate(("Hopper-v4", HPO, claims.BASELINE1, measure), results)
        assert found(0.95)[0] == 0 and note == "over 2 common evaluations, in 1 common episode"
    put_evaluated(place, sac, curve[:, :2], [5_000, 100_000])
    results.curves.cache_clear()
    found, _, _ = page.estimate(("Hopper-v4", HPO, claims.BASELINE1, "last"), results)
    assert found(0.95)[0] == pytest.approx((curve[:, 9] - curve[:, 1]).mean())
    put_evaluated(place, sac, curve[:, :1], [100_000 - 1])  # not at the end, and at no step of the other
    results.curves.cache_clear()
    assert page.estimate(("Hopper-v4", HPO, claims.BASELINE1, "last"), results)[2] == "not evaluated alike"
    place.results(sac).unlink()
    results.curves.cache_clear()
    assert page.estimate(("Hopper-v4", HPO, claims.BASELINE1, "last"), results)[2] == "not run"
    assert "not run" in page.returns(section, "best", results)


def test_what_has_begun_is_shown_as_far_as_it_has_run(tmp_path):
    """SAC at the end, SAC-HPO's first four seeds at 60,000: both are compared there, and nothing counts as done."""
    place, rng = Place(tmp_path, "laptop"), np.random.default_rng(7)
    results = page.Results(place)
    sac, hpo = (results.cell(arm, "Hopper-v4") for arm in (SAC, HPO))
    often, x, y = np.arange(1, 11) * 10_000, rng.normal(100, 9, (8, 10)), rng.normal(150, 9, (4, 6))
    put_evaluated(place, sac, x, often, 2)
    put_evaluated(place, dataclasses.replace(hpo, seeds=4), y, often[:6], 2)
    assert cells.is_done(sac, place) and not cells.is_done(hpo, place)
    assert cells.reach(hpo, place.results(hpo)) == (4, 60_000)
    (section,) = (s for s in SECTIONS if s.item == "figure3")
    text = page.section_text(section, results)
    whole, part = (page.spread(curve.max(1)) for curve in (x, y))
    assert f"| Hopper-v4 | {whole} (8) | {part} (4, at 60,000) |" in text and "IQM" not in text
    found, _, note = page.estimate(("Hopper-v4", HPO, SAC, "mean"), results)
    assert note == "at 60,000 of 100,000 steps, of 4 and 8 seeds"
    assert found(0.95)[0] == pytest.approx(y.mean() - x[:, :6].mean())
    assert ", at 60,000 of 100,000 steps" in said(results, "SAC-HPO learns faster than SAC on all")
    path = page.page_path(place)
    assert page.draw([section], results, path.with_suffix(".png"))
    head = " ".join(page.page(results, drawing=False).split("## Verdicts")[0].split())
    assert "1 of 61 cells, " in head
    assert '"at" and a step say: Hopper-v4__sac_hpo_continuous (4 of 8 seeds at 60,000 of 100,000 steps). W' in head
    results.curves.cache_clear()
    put_evaluated(place, sac, x[:, :6], np.arange(1, 7) * 5_000)  # more often, and not as far
    assert page.estimate(("Hopper-v4", HPO, SAC, "mean"), results)[2].startswith("at 30,000 of 100,000 steps, of 4 and")
    results.curves.cache_clear()
    put_evaluated(place, hpo, rng.normal(size=(8, 1)), [150_000])  # nothing of the cell
    assert results.curves(HPO, "Hopper-v4") is None and cells.held(hpo, place) is None


def test_what_has_not_ended_is_judged_so_far(tmp_path):
    """After 2% of a run: "holds so far", and of claims that nothing differs no verdict, as all is alike at first."""
    rng, papers = np.random.default_rng(9), page.Results(Place(tmp_path, "paper"))
    for env_id in claims.MUJOCO:
        for arm, level in ((SAC, 100), (HPO, 200)):
            put_evaluated(papers.place, papers.cell(arm, env_id), rng.normal(level, 5, (4, 2)), [10_000, 20_000])
    for arm in STEPS.values():
        put_evaluated(papers.place, papers.cell(arm, "Hopper-v4"), rng.normal(300, 5, (4, 2)), [10_000, 20_000])
    papers.curves.cache_clear()
    assert "| **holds so far** | HalfCheetah: " in said(papers, "SAC-HPO reaches more than SAC on all")
    for claim in ("K = 2 and K = 3 reach about the same", "a large K is of no use"):
        assert "| **too early** | Hopper: " in said(papers, claim)
    text = page.section_text(next(s for s in SECTIONS if s.item == "figure3"), papers)
    assert re.search(r"The mean of standing still is higher on .*Ant-v4 \(1000\) than SAC \(\d+, at 20,000\)", text)


def test_no_file_is_taken_for_what_it_is_not(tmp_path):
    """A torn last row, a word among the numbers, an older form, no command: nothing of these is shown."""
    place = Place(tmp_path, "laptop")
    results = page.Results(place)
    sac = results.cell(SAC, "Hopper-v4")
    path, often = place.results(sac), np.arange(1, 11) * 10_000
    put_evaluated(place, sac, np.ones((8, 10)), often)
    text = path.read_text()
    values = re.search("^#   values.*\n", text, re.M)[0]
    for broken in (text[:-1], text.replace("return,length", "return,length,note").replace(",10\n", ",10,hi\n")):
        cells.write_whole(path, broken)
        assert cells.reach(sac, path) == (0, 0) and cells.held(sac, place) is None and not cells.stale(sac, path)
    for old, why in (
        (text.replace(values, ""), "form 1 where the cell has 2"),
        (text.replace('"form": 2', '"form": 1'), "form 1 where the cell has 2"),
        (re.sub("^#.*\n", "", text, flags=re.M), "it names no command"),
        (text.replace(values, "").replace("--env-id", "--help --env-id", 1), "its command runs nothing"),
    ):
        cells.write_whole(path, old)
        assert cells.held(sac, place) is None and cells.stale(sac, path) == cells.untimely(sac, place) == why
    longer = Place(tmp_path, "paper")
    long = page.Results(longer).cell(SAC, "Hopper-v4")
    put_evaluated(longer, long, np.ones((4, 10)), often)
    assert cells.untimely(sac, place) == why  # four seeds are not the cell's eight
    put_evaluated(longer, dataclasses.replace(long, seeds=8), np.ones((8, 10)), often)
    assert cells.is_done(sac, place) and cells.untimely(sac, place) == ""  # the stale file beside it harms nobody


def test_no_results_are_lost_to_less(tmp_path, monkeypatch, capsys):
    """A stopped run's rows go beside nothing that has more seeds or steps; an ended run's put that aside."""
    place = Place(tmp_path, "paper")
    sac = page.Results(place).cell(SAC, "Hopper-v4")
    path, attempt = place.results(sac), cells.Attempt(sac, place)

    def text(seeds, steps):
        other = Place(tmp_path / "other", "paper")
        put_evaluated(other, dataclasses.replace(sac, seeds=seeds), np.ones((seeds, steps)), np.arange(1, steps + 1))
        return other.results(sac).read_text()

    for there, new, kept in (((8, 30), (4, 60), True), ((4, 30), (8, 20), True), ((4, 30), (4, 31), False),
                             ((4, 30), (8, 30), True), ((2, 30), (4, 30), False)):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(*there))
        before = path.read_text()
        rows = text(*new)
        monkeypatch.setattr(cells, "collected", lambda run, unfinished=False, rows=rows: rows)
        attempt.keep(Path("run"))
        assert (path.read_text() == before) == kept, (there, new)
    for broken in (text(4, 30)[:-1], text(4, 30).replace('"gamma": 0.99', '"gamma": 0.5')):
        path.write_text(broken)  # which may be mended, or of use to somebody
        attempt.keep(Path("run"))
        assert path.read_text() == broken
    path.write_text(before := text(8, 30))
    attempt.write(new := text(4, 60))
    (beside,) = path.parent.glob("*.csv.*")
    assert path.read_text() == new and beside.read_text() == before and beside.name in capsys.readouterr().err
    attempt.write(text(4, 61))
    assert len([*path.parent.iterdir()]) == 2


def test_a_longer_run_is_a_shorter_one_too(tmp_path):
    """A run of the paper's length at 300,000 steps makes the laptop's cell done; one of other values does not."""
    place, rng = Place(tmp_path, "laptop"), np.random.default_rng(8)
    results, longer = page.Results(place), Place(tmp_path, "paper")
    sac, long = results.cell(SAC, "Hopper-v4"), page.Results(longer).cell(SAC, "Hopper-v4")
    put_evaluated(place, sac, [[1.0] * 4] * 8, np.arange(1, 5) * 10_000)
    x = rng.normal(size=(8, 30))
    put_evaluated(longer, dataclasses.replace(long, seeds=8), x, np.arange(1, 31) * 10_000)
    assert cells.is_done(sac, place) and cells.held(sac, place) == longer.results(long)
    assert np.allclose(results.curves(SAC, "Hopper-v4").curve(), x[:, :10])
    assert cells.reach(long, longer.results(long)) == (4, 300_000) and not cells.is_done(long, longer)
    text = longer.results(long).read_text()
    cells.write_whole(longer.results(long), text.replace('"gamma": 0.99', '"gamma": 0.5', 1))
    assert cells.held(sac, place) == place.results(sac) and not cells.is_done(sac, place)
    assert cells.held(sac, dataclasses.replace(place, keep_stale=True)) == longer.results(long)


def test_no_spread_and_diverged_seeds(tmp_path):
    """+0.001 of seeds that are all the same proves nothing; a seed of eight that diverges counts, and is told."""
    place, rng = Place(tmp_path, "laptop"), np.random.default_rng(6)
    results = page.Results(place)
    for env_id in claims.MUJOCO:
        put(place, results.cell(SAC, env_id), np.ones((8, 3)))
        put(place, results.cell(HPO, env_id), np.full((8, 3), 1.001))
    row = said(results, "SAC-HPO reaches more than SAC on all")
    assert "**cannot be told**" in row and row.count("no seed differs") == 5
    assert "**cannot be told**" in said(results, "SAC-HPO's seeds lie closer")
    curves = made_up(120, rng)
    for env_id in claims.MUJOCO:
        put(place, results.cell(SAC, env_id), made_up(100, rng))
        put(place, results.cell(HPO, env_id), curves)
    curves[3, 2:] = np.nan
    put(place, results.cell(HPO, "Ant-v4"), curves)
    results = page.Results(place)
    row = said(results, "SAC-HPO reaches more than SAC on all")
    assert re.search(r"Ant: \+1\d \[[^]]*\] \*, 1 of 8 and 0 of 8 seeds diverged;", row) and "Walker2d: +21" in row
    (section,) = (s for s in SECTIONS if s.item == "figure3")
    row = r"\| Ant-v4 \| 100 ± \d \(8\) \| 1\d\d ± \d \(7, 1 diverged\) \|"
    assert re.search(row, page.returns(section, "best", results))
    assert "nan" not in page.aggregates(section, "best", results) + page.differences(section, "best", results)


def test_the_correction_counts_the_tasks_that_ran(tmp_path):
    """A loss told from zero at 5%/4 and not at 5%/5 refutes a claim of whose five tasks four ran; the page says so."""
    place = Place(tmp_path, "laptop")
    results = page.Results(place)
    x, wide = np.arange(8.0)[:, None], np.random.default_rng(7).permutation(8.0 * np.arange(8))[:, None]
    p = 0.011  # between 5%/5 and 5%/4
    shift = scipy.stats.t.isf(p / 2, 14) * np.sqrt(2 * x.var(ddof=1) / 8)
    for env_id in claims.MUJOCO[:4]:
        low = env_id == "HalfCheetah-v4"
        put(place, results.cell(SAC, env_id), x if low else wide)
        put(place, results.cell(HPO, env_id), x - shift if low else wide[::-1])
    row = said(results, "SAC-HPO reaches more than SAC on all")
    assert "**does not hold**" in row and re.search(r"HalfCheetah: -\d \[-\d, -\d\] \*", row)
    put(place, results.cell(SAC, "Humanoid-v4"), wide)
    put(place, results.cell(HPO, "Humanoid-v4"), wide[::-1])
    assert "**cannot be told**" in said(page.Results(place), "SAC-HPO reaches more than SAC on all")
    assert "Holm's, over the tasks that ran" in " ".join(page.RULES.split())
