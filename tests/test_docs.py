"""Documentation that cannot drift from the code."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import mcmcpo_hmc_continuous as hmc
import mcmcpo_langevin_continuous as lan
import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_hpo_pixels as px
from analysis import landscape

import pytest
from conftest import FAMILY, forked

ROOT = Path(sac.__file__).parent
FOLDERS = "ablations", "analysis", "runtime"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

TABLES = [
    (hpo, "method.md", "## From an", 13),
    (hmc, "mcmcpo.md", "## From an", 11),
    (lan, "mcmcpo.md", "And in `mcmc", 4),
]


@pytest.mark.parametrize(("script", "page", "start", "count"), TABLES)
def test_every_quoted_line_stands_in_the_script(script, page, start, count):
    code = Path(script.__file__).read_text()
    page = re.split(r"\n## |\nAnd in `", (ROOT / "docs" / page).read_text().split(start)[1])[0]
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `([\w.]+)` \| `(.+)` \|$", page, re.M)
    assert len(rows) == count
    blocks = {}
    for node in ast.parse(code).body:
        name = getattr(node, "name", None) or ast.unparse(getattr(node, "targets", [ast.Constant(0)])[0])
        for part in [node, *getattr(node, "body", [])]:
            own = name if part is node else f"{name}.{getattr(part, 'name', '')}"
            blocks[own] = [line.strip() for line in code.splitlines()[part.lineno - 1 : part.end_lineno]]
    for where, line in rows:
        assert line in blocks[where], (where, line)


def test_every_reading_is_listed_and_marked_in_the_code():
    page = (ROOT / "docs/method.md").read_text()
    assert re.findall(r"^\| (D\d+) \|", page, re.M) == [f"D{i}" for i in range(1, 20)]
    code = Path(hpo.__file__).read_text()
    for number in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14):
        assert re.search(rf"\bD{number}\b", code), number
    page = (ROOT / "docs/mcmcpo.md").read_text()
    assert re.findall(r"^\| (D\d+) \|", page, re.M) == [f"D{i}" for i in range(20, 34)]
    code = Path(hmc.__file__).read_text() + Path(lan.__file__).read_text()
    for number in range(20, 34):
        assert re.search(rf"\bD{number}\b", code), number


@pytest.mark.parametrize(("script", "title"), [(hmc, "MCMC-PO, stochastic"), (lan, "MCMC-PO, deterministic")])
def test_flags_of_the_mcmcpo_scripts_are_listed(script, title):
    """Those that sac_continuous.py lacks, or has with another default."""
    text = (ROOT / "docs/use.md").read_text().split(f"### {title}")[1].split("\n##")[0]
    rows = re.findall(r"^\| `--([\w-]+)` \| ([^|]+) \|", text, re.M)
    mine, theirs, words = vars(script.Args()), vars(sac.Args()), {"True": "on", "False": "off"}
    own = {name: value for name, value in mine.items() if name not in theirs or theirs[name] != value}
    assert {(name.replace("-", "_"), value.replace(",", "")) for name, value in rows} == {
        (name, words.get(str(value), str(value))) for name, value in own.items()
    }


def test_flags_of_the_pixel_script_are_listed():
    """Those that sac_hpo_continuous.py lacks, or has with another default."""
    text = (ROOT / "docs/use.md").read_text().split("## From pixels")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `--([\w-]+)` \| ([^|]+) \|", text, re.M)
    mine, theirs, words = vars(px.Args()), vars(hpo.Args()), {"True": "on", "False": "off"}
    own = {name: value for name, value in mine.items() if name not in theirs or theirs[name] != value}
    assert {(name.replace("-", "_"), value.replace(",", "")) for name, value in rows} == {
        (name, words.get(str(value), str(value))) for name, value in own.items()
    }


def test_every_flag_is_listed_with_its_default_and_its_scripts():
    text, short = (
        (ROOT / "docs/use.md").read_text(),
        {"sac": "SAC", "hpo": "HPO", "nf": "NF", "b1": "1", "b2": "2", "b3": "3"},
    )
    have = {}
    for key, script in FAMILY.items():
        for name, value in vars(script.Args()).items():
            have.setdefault(name, ([], {str(value)}))[0].append(short.get(key, key))
            have[name][1].add(str(value))
    text = text.split("## From pixels")[0].split("## MCMC-PO")[0]
    assert len(re.findall(r"^\| `--", text, re.M)) == len(have)
    for name, (scripts, values) in have.items():
        flag = f"`--{name.replace('_', '-')}`"
        row = next((line for line in text.splitlines() if line.startswith(f"| {flag}")), "| | | |")
        shown = [cell.strip() for cell in row.split("|")[2:4]]
        words = {"True": "on", "False": "off", "None": "none"}
        (value,) = values  # the same in every script
        default = "if there is one" if name == "cuda" else words.get(value, value)
        where = "all" if len(scripts) == len(FAMILY) else ", ".join(scripts)
        assert [shown[0], shown[1].replace(",", "")] == [where, default], (flag, shown, where, default)


def test_the_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_bytes()) <= 6_000


def test_every_folder_of_results_is_described():
    """Once, by itself or by its parts; what is described is there, and the page that reads it names it."""
    rows = re.findall(r"^\| (`.+`) \| [^|]+ \| [^|]+ \| (.+) \|$", (ROOT / "results/README.md").read_text(), re.M)
    named = {name: links for names, links in rows for name in re.findall(r"`([^`]+)`", names)}
    there = {path.name for path in (ROOT / "results").iterdir()} - {"README.md"}
    assert {name.split("/")[0] for name in named} == there
    parts = {name for name in named if name.startswith("benchmark/")}
    assert parts == {
        f"benchmark/{path.name}" + "/" * path.is_dir()
        for path in (ROOT / "results/benchmark").iterdir()
        if path.name != "smoke"
    }
    for name in named.keys() - {"benchmark/paper/", "benchmark/standing.csv"}:  # of which page.py makes docs/results.md
        links = named[name]
        pages = [(ROOT / "results" / link).read_text() for link in re.findall(r"\(([^)]+)\)", links)]
        assert any(f"results/{name}" in page for page in pages), name


def anchors(page: Path) -> set[str]:
    """What a link may name after #: GitHub's forms of a page's titles."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    text = re.sub(r"`[^`\n]+`", "", page.read_text())  # code is no link
    for link in re.findall(r"\]\((?!http)([^)]+)", text):
        path, _, title = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not title or title in anchors(target), link


def test_what_code_says_of_pages_is_there():
    for file in [*ROOT.glob("*.py"), *(x for folder in FOLDERS for x in (ROOT / folder).rglob("*.py"))]:
        for path in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text()):
            assert (ROOT / path).exists() or path == "docs/results-paper.md", (file, path)  # that one a command writes


def test_ci_runs_the_readmes_test_command():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    command = re.search(r"^(python3 -m venv .*-m pytest -n 2)$", readme, re.M).group(1)
    assert command.replace("pip install", "pip install -q") in ci


@pytest.mark.slow
def test_pages_show_what_their_commands_print():
    """Every command that a page quotes for a table of committed results, run again."""
    covered, count = set(), 0
    for page in PAGES:
        text = page.read_text()
        quoted = {" ".join(code.split()) for code in re.findall(r"`(python\s[^`]+)`", text)}
        tables = r"/tables\.py results/|--show results/|(distance|clamped|controllers)\.py table"
        for command in (c for c in quoted if re.search(tables, c)):
            words = [path for word in shlex.split(command)[1:] for path in ([*sorted(ROOT.glob(word))] or [word])]
            code, out, err = forked(ROOT / words[0], *words[1:], cwd=ROOT)
            blocks = [block for block in out.decode().strip().split("\n\n") if block.startswith("|")]
            assert code == 0 and blocks and all(block in text for block in blocks), (command, err)
            covered |= {word for word in words if "tables.py" in command}
            count += 1
    assert covered >= {*(ROOT / "results").glob("*.csv"), *(ROOT / "results/sac_nf").glob("*.csv")} and count >= 7


@pytest.mark.slow
def test_the_readmes_picture_is_of_actions_that_climb(tmp_path):
    """Each of the script's own leapfrog steps carries them higher."""
    printed = landscape.main(landscape.Args(output=tmp_path / "hills.png"))
    values = [float(line.split("|")[2]) for line in printed.splitlines() if re.match(r"\| \d", line)]
    assert len(values) == 4 and values == sorted(values) and values[-1] > 1.4 * values[0]
    assert (tmp_path / "hills.png").stat().st_size > 30_000 and (ROOT / "docs/landscape.png").stat().st_size < 300_000


def test_an_install_has_every_file():
    """`pip install -e .` takes what it needs from requirements.txt, and finds every script and folder of code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = project["tool"]["setuptools"]
    assert set(tools["py-modules"]) == {path.stem for path in ROOT.glob("*.py")}
    folders = {
        path.parent.relative_to(ROOT) for name in ("runtime", "analysis") for path in (ROOT / name).rglob("*.py")
    }
    assert set(tools["packages"]) == {".".join(folder.parts) for folder in folders}
    assert tools["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {project['project']['version']}\n" in citation and "cff-version: 1.2.0" in citation
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    supported = (ROOT / "docs/supported.md").read_text(encoding="utf-8")
    for name, written in (("torch", "{} is pinned"), ("mujoco", "MuJoCo {} (pinned)"), ("pybullet", "PyBullet {}")):
        assert written.format(re.search(rf"^{name}==([\d.]+)", pins, re.M)[1]) in supported
